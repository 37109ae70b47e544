"""Pages kept for strangers: never older than the database, never somebody's own."""

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date

import pytest
from fastapi.testclient import TestClient

from workingpapers.core.types import Paper
from workingpapers.hub.app import create_app
from workingpapers.hub.settings import Settings
from workingpapers.hub.store.database import Store, tell
from workingpapers.hub.web import kept
from workingpapers.hub.web.site import Site

ONE = Paper("arxiv:2601.00001", "Kettles", (), "Steam. " * 300, date(2026, 1, 1), "")


@pytest.fixture(scope="module")
def address(module_database):
    return module_database()


@pytest.fixture(scope="module")
def client(tmp_path_factory, address):
    home = tmp_path_factory.mktemp("kept")
    (home / "papers").mkdir()
    app = create_app(Settings(home, address), home / "papers", fill=False)
    with TestClient(app) as client:
        app.state.hub.add([ONE], date(2026, 1, 1))
        client.get("/")  # the edition is old, so this freezes its order, which is written
        yield client


def write(address):
    """Write something, as another process would."""
    with closing(Store.open(address)) as other, other.writing() as db:
        tell(db, "anything", secrets.token_hex())


@pytest.fixture
def made(client, address, monkeypatch):
    """The templates that were filled, one word a page; nothing is kept from before."""
    found, page = [], Site.page

    def counted(self, request, template, **more):
        found.append(template)
        return page(self, request, template, **more)

    monkeypatch.setattr(Site, "page", counted)
    write(address)
    client.cookies.clear()
    return found


def test_a_page_is_made_once_for_all_strangers(client, made):
    first, second = client.get("/"), client.get("/")
    assert made == ["edition.html"]
    assert first.content == second.content
    limits = {"ratelimit", "ratelimit-policy"}
    assert {k: v for k, v in first.headers.items() if k not in limits} == {
        k: v for k, v in second.headers.items() if k not in limits
    }


def test_what_is_kept_is_told_apart(client, made):
    client.get("/")
    client.get("/", headers={"Cookie": "theme=dark"})
    client.get("/", headers={"Accept-Encoding": "identity"})
    client.get("/?page=1")
    assert len(made) == 4
    assert 'data-theme="dark"' not in client.get("/").text
    plain = client.get("/", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert len(made) == 4


def test_anything_written_by_anyone_ends_it(client, made, address):
    client.get("/")
    write(address)
    client.get("/")
    assert len(made) == 2


def test_what_the_hub_itself_writes_shows_at_once(client, made):
    assert "Saucers" not in client.get("/editions/2026-01-01").text
    saucers = Paper("arxiv:2601.00002", "Saucers", (), "", date(2026, 1, 1), "")
    client.app.state.hub.add([saucers], date(2026, 1, 1))
    assert "Saucers" in client.get("/editions/2026-01-01").text


def test_who_may_be_somebody_gets_a_page_of_their_own(client, made):
    client.get("/")
    client.get("/", headers={"Cookie": "session=x"})
    client.get("/", headers={"Cookie": "theme=dark; anything=x"})
    client.get("/", headers={"Authorization": "Bearer wp_x"})
    assert len(made) == 4


def test_a_page_with_a_cookie_in_it_is_not_kept(client, made):
    for _ in range(2):
        assert "set-cookie" in client.get("/sign-in").headers
        client.cookies.clear()
    assert made == ["sign-in.html"] * 2


def test_a_mistake_is_not_kept(client, made):
    for _ in range(2):
        assert client.get("/editions/2020-01-01").status_code == 404
    assert len(made) == 2


def test_who_has_the_page_is_told_so(client, made):
    tag = client.get("/").headers["etag"]
    answer = client.get("/", headers={"If-None-Match": tag})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == tag
    assert "content-encoding" not in answer.headers
    assert client.get("/", headers={"If-None-Match": 'W/"other"'}).status_code == 200
    assert len(made) == 1


def test_a_page_is_kept_for_seconds_only(client, made, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(kept.time, "monotonic", lambda: now[0])
    client.get("/")
    now[0] += kept.SECONDS - 0.1
    client.get("/")
    assert len(made) == 1
    now[0] += 0.2
    client.get("/")
    assert len(made) == 2


def test_what_is_kept_has_a_bound(client, made, monkeypatch):
    size = len(client.get("/", headers={"Accept-Encoding": "identity"}).content)
    monkeypatch.setattr(kept, "LARGEST", 3 * size)
    for theme in ("", "a", "b", "c", "d"):
        headers = {"Accept-Encoding": "identity", "Accept": theme}
        client.get("/", headers=headers)
    before = len(made)
    client.get("/", headers={"Accept-Encoding": "identity", "Accept": "d"})
    assert len(made) == before
    client.get("/", headers={"Accept-Encoding": "identity", "Accept": "a"})
    assert len(made) == before + 1


def test_the_head_of_a_page_is_that_of_the_page_that_is_kept(client, made):
    page = client.get("/")
    head = client.head("/")
    assert head.content == b""
    for name in ("etag", "content-type", "content-length", "content-encoding"):
        assert head.headers[name] == page.headers[name]
    assert len(made) == 1


def test_asking_for_a_head_first_keeps_nothing(client, made):
    client.head("/")
    assert client.get("/").text.startswith("<!doctype html>")
    assert len(made) == 2


def test_many_who_ask_at_once_get_one_page(client, made, monkeypatch):
    counted = Site.page

    def slow(*arguments, **more):
        time.sleep(0.3)
        return counted(*arguments, **more)

    monkeypatch.setattr(Site, "page", slow)
    with ThreadPoolExecutor(8) as threads:
        pages = list(threads.map(lambda _: client.get("/").content, range(8)))
    assert len(set(pages)) == 1
    assert len(made) == 1


def test_those_who_wait_for_a_page_that_is_not_kept_get_their_own(client, made):
    with ThreadPoolExecutor(4) as threads:
        statuses = list(
            threads.map(lambda _: client.get("/editions/2020-01-01").status_code, range(4))
        )
    assert statuses == [404] * 4
