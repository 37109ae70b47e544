"""The API keeps to its own description: fuzzed by schemathesis, as three kinds of reader.

Whatever is sent, no answer is a 500, and status, type and body of each are among those described.
"""

from datetime import date
from pathlib import Path

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from workingpapers.core.types import Paper
from workingpapers.hub.app import create_app
from workingpapers.hub.feeds import remote
from workingpapers.hub.settings import Settings

BASE = "http://papers.example"
PAPERS = [
    Paper("arxiv:2401.00001", "Of Teapots", ("Ada Stone",), "They pour.", date(2024, 1, 1), ""),
    Paper("arxiv:hep-th/9901001", "An old one", (), "Old $x^2$.", date(1999, 1, 1), "", 2),
]
IDS = ["2401.00001", "hep-th/9901001", "arxiv:2401.00001v2"]
KEPT = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
EXAMPLES = settings(
    max_examples=20,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def made(home):
    settings = Settings(home, f"sqlite:///{home / 'hub.sqlite'}", base_url=BASE, reads=0)
    return create_app(settings, home / "papers", fill=False)


SCHEMA = schemathesis.openapi.from_dict(made(Path("nowhere")).openapi())
OPERATIONS = {
    f"{o.method} {o.path}": o for o in (item.ok() for item in SCHEMA.get_all_operations())
}


def unreachable(web, address, **more):
    raise remote.RemoteError(f"{address} is not asked by a test")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    home = tmp_path_factory.mktemp("api")
    (home / "papers").mkdir()
    app = made(home)
    with TestClient(app, base_url=BASE, raise_server_exceptions=False) as client:
        app.state.hub.add(PAPERS, date(2026, 1, 1))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(remote.Web, "ask", unreachable)
            patch.setattr(app.state.hub.people.limits, "spend", lambda *_: [])
            yield client


@pytest.fixture(scope="module")
def tokens(client):
    """What each kind of reader shows."""
    signing = client.app.state.hub.people.signing
    letter = signing.ask("ada@lab.example", "/")
    ada = signing.by_link(letter.cookie, letter.link).account
    chief = signing.by_first(signing.first_link(), "chief@lab.example").account
    return {
        "nobody": {},
        "reader": {"Authorization": f"Bearer {signing.new_token(ada, 'fuzz')}"},
        "administrator": {"Authorization": f"Bearer {signing.new_token(chief, 'fuzz')}"},
    }


@pytest.mark.parametrize("who", ["nobody", "reader", "administrator"])
@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_every_answer_is_described(client, tokens, label, who):
    @EXAMPLES
    @given(st.data())
    def fuzzed(data):
        mode = data.draw(st.sampled_from(list(schemathesis.GenerationMode)))
        case = data.draw(OPERATIONS[label].as_strategy(generation_mode=mode))
        if "paper_id" in case.path_parameters:  # chance would find none that is there
            known = st.sampled_from([case.path_parameters["paper_id"], *IDS])
            case.path_parameters["paper_id"] = data.draw(known)
        sent = case.as_transport_kwargs(base_url=BASE)
        sent["headers"] = {**sent["headers"], **tokens[who]}
        assert not sent.pop("cookies", None)
        if isinstance(sent.get("data"), bytes):
            sent["content"] = sent.pop("data")
        case.validate_response(client.request(**sent), checks=KEPT)

    fuzzed()
