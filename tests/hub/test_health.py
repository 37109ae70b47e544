"""Health and metrics: what is told of the hub, to whom, and when something is wrong."""

import json
import logging
import re
from dataclasses import replace
from datetime import date

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from workingpapers.core.types import Paper
from workingpapers.hub import health
from workingpapers.hub.app import create_app
from workingpapers.hub.settings import Settings
from workingpapers.hub.web import watch

BASE = "https://papers.example"
TEA = Paper("arxiv:2401.00001", "Of Teapots", ("Ada Stone",), "They pour.", date(2024, 1, 1), "")


@pytest.fixture
def started(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(health, "KEPT", -1.0)
    (tmp_path / "papers").mkdir()

    def start(**more):
        changed = replace(settings, base_url=BASE, **more)
        return TestClient(create_app(changed, tmp_path / "papers", fill=False), base_url=BASE)

    return start


def broken(*_):
    raise OperationalError("SELECT secret FROM /home/hub.sqlite", {}, Exception("no such host"))


def test_health_tells_numbers_and_no_more(started, settings):
    with started() as client:
        client.app.state.hub.add([TEA], date(2026, 1, 1))
        answer = client.get("/health")
    told = answer.json()
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    assert told["status"] == "ok" and told["database"] is True
    assert told["papers"] == 1 and told["index_behind"] == 0
    assert told["step"] == told["steps"] > 8
    assert told["worker"] is False and told["disk_free"] > 0
    for secret in (str(settings.home), settings.database_url, "sqlite", "postgres"):
        assert secret not in answer.text


def test_without_its_database_the_hub_is_alive_and_not_ready(started, monkeypatch):
    with started() as client:
        store = client.app.state.hub._store
        monkeypatch.setattr(store, "_reader", type("Broken", (), {"connect": broken})())
        assert client.get("/health/live").text == "ok\n"
        assert client.get("/health/ready").status_code == 503
        answer = client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["status"] == "failing" and answer.json()["papers"] is None
    assert "hub.sqlite" not in answer.text and "no such host" not in answer.text


def test_a_hub_that_stops_takes_no_new_readers(started):
    with started() as client:
        assert client.get("/health/ready").text == "ok\n"
        client.app.state.stopping.set()
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200


STATE = health.State(True, 9, 9, 1, 0, 2**40, True, {}, {}, {}, 0, 0)


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({}, "ok"),
        ({"worker": False}, "ok"),
        ({"worker": False, "jobs": {"queued": 1}}, "degraded"),
        ({"worker": True, "jobs": {"queued": 1}}, "ok"),
        ({"index_behind": 5}, "degraded"),
        ({"disk_free": 1000}, "degraded"),
        ({"sources_failing": 1}, "degraded"),
        ({"step": 8}, "failing"),
        ({"database": False, "step": None}, "failing"),
    ],
)
def test_the_one_word_follows_the_numbers(changed, status):
    assert replace(STATE, **changed).status == status


def test_many_who_ask_cost_one_look(started, monkeypatch):
    monkeypatch.setattr(health, "KEPT", 60.0)
    with started() as client:
        one = client.app.state.hub.health
        looks = []
        look = one._look
        monkeypatch.setattr(one, "_look", lambda: looks.append(1) or look())
        for _ in range(5):
            client.get("/health")
            client.get("/health/ready")
    assert len(looks) == 1


# Metrics


def token_of(client, *, administrator):
    signing = client.app.state.hub.people.signing
    if administrator:
        account = signing.by_first(signing.first_link(again=True), "chief@lab.example").account
    else:
        letter = signing.ask("ada@lab.example", "/")
        account = signing.by_link(letter.cookie, letter.link).account
    return {"Authorization": f"Bearer {signing.new_token(account, 'prometheus')}"}


def test_metrics_want_an_administrators_token(started):
    with started() as client:
        answer = client.get("/metrics")
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/metrics", headers={"Authorization": "Bearer wp_x"}).status_code == 401
        reader = token_of(client, administrator=False)
        assert client.get("/metrics", headers=reader).status_code == 403
        answer = client.get("/metrics", headers=token_of(client, administrator=True))
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(("setting", "status"), [("open", 200), ("off", 404)])
def test_metrics_are_open_or_off_where_the_settings_say_so(started, setting, status):
    with started(metrics=setting) as client:
        assert client.get("/metrics").status_code == status


def read(client):
    """Each line of the metrics, without the comments."""
    lines = client.get("/metrics").text.splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_metrics_count_by_route_and_tell_of_the_hub(started):
    with started(metrics="open") as client:
        hub = client.app.state.hub
        hub.add([TEA], date(2026, 1, 1))
        chief = hub.people.signing.by_first(hub.people.signing.first_link(), "c@lab.example")
        hub.jobs.ask_import(chief.account, "1808.00758")
        for path in ("/papers/2401.00001", "/papers/9999.99999", "/search?q=teapots", "/nothing"):
            client.get(path)
            client.get(path)
        client.request("BREW", "/")
        found = read(client)
    paper = 'method="GET",route="/papers/{paper_id:path}"'
    assert found[f'workingpapers_requests_total{{{paper},status="200"}}'] == "2.0"
    assert found[f'workingpapers_requests_total{{{paper},status="404"}}'] == "2.0"
    nowhere = 'method="GET",route="none",status="404"'
    assert found[f"workingpapers_requests_total{{{nowhere}}}"] == "2.0"
    assert 'workingpapers_requests_total{method="OTHER",route="/",status="405"}' in found
    assert found['workingpapers_request_seconds_count{route="/search"}'] == "2.0"
    assert float(found["workingpapers_search_seconds_count"]) >= 1
    assert found["workingpapers_papers"] == "1.0" and found["workingpapers_index_behind"] == "0.0"
    assert found["workingpapers_database_up"] == "1.0" and found["workingpapers_worker_up"] == "0.0"
    assert found['workingpapers_jobs{state="queued"}'] == "1.0"
    assert "2401" not in "".join(found) and "9999" not in "".join(found)


def test_what_breaks_is_counted_as_500(started, monkeypatch):
    with started(metrics="open") as client:
        monkeypatch.setattr(client.app.state.hub, "board", lambda: 1 / 0)
        careless = TestClient(client.app, base_url=BASE, raise_server_exceptions=False)
        assert careless.get("/evidence").status_code == 500
        line = 'workingpapers_requests_total{method="GET",route="/evidence",status="500"}'
        assert read(client)[line] == "1.0"


def test_metrics_without_a_database_say_so(started, monkeypatch):
    with started(metrics="open") as client:
        store = client.app.state.hub._store
        monkeypatch.setattr(store, "_reader", type("Broken", (), {"connect": broken})())
        found = read(client)
    assert found["workingpapers_database_up"] == "0.0" and "workingpapers_papers" not in found


# The log of requests


@pytest.mark.parametrize("every", [True, False])
def test_the_log_is_lines_of_json_by_route(started, every, capsys):
    logger = watch.log
    kept = logger.handlers, logger.propagate, logger.level
    try:
        watch.log_access(every=every)
        with started() as client:
            client.get("/papers/9999.99999?email=ada@lab.example")
            client.post("/account", data={"name": "secret"})
    finally:
        logger.handlers, logger.propagate = kept[0], kept[1]
        logger.setLevel(kept[2])
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line[:1] == "{"]
    told = [(line["request"]["route"], line["request"]["status"]) for line in lines]
    refused = ("/account", 403)
    assert told == ([("/papers/{paper_id:path}", 404), refused] if every else [refused])
    assert all(re.match(r"\d{4}-\d\d-\d\d", line["at"]) for line in lines)
    assert set(lines[0]["request"]) == {"method", "route", "status", "bytes", "ms"}


def test_settings_that_cannot_be_are_told():
    for name in ("LARGEST_BODY", "READS", "QUERY_SECONDS", "CHECK_MEMORY", "STOP_SECONDS"):
        for value in ("x", "-1", "1.5", "9" * 10, "²"):
            with pytest.raises(ValueError, match=f"WORKINGPAPERS_{name}"):
                Settings.from_environment({f"WORKINGPAPERS_{name}": value})
    with pytest.raises(ValueError, match="open, token or off"):
        Settings.from_environment({"WORKINGPAPERS_METRICS": "loopback"})
    assert Settings.from_environment({"WORKINGPAPERS_READS": "0"}).reads == 0
    assert logging.getLogger("workingpapers.access") is watch.log
