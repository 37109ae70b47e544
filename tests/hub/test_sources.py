"""Sources: kept, read when they are due, by one at a time, and from where the last one ended."""

import subprocess
import sys
from datetime import timedelta
from threading import Event, Thread

import httpx
import pytest

from workingpapers.hub import archive
from workingpapers.hub.catalog import Catalog
from workingpapers.hub.sources import running
from workingpapers.hub.sources.sources import Busy, Sources
from workingpapers.hub.sources.watch import Watch
from workingpapers.hub.store import sources as kept
from workingpapers.hub.store.database import Store

RECORD = """<record><header><identifier>oai:arXiv.org:{0}</identifier></header><metadata>
<arXiv xmlns="http://arxiv.org/OAI/arXiv/"><id>{0}</id><created>{1}</created>
<title>Paper {0}</title><categories>cs.LG</categories><abstract>Tea.</abstract>
</arXiv></metadata></record>"""
SIZE, PAGES = 3, 4


def page(number):
    """Page `number` of four, with its three papers; the last has no token."""
    ids = [f"2602.{SIZE * number + n:05}" for n in range(SIZE)]
    body = "".join(RECORD.format(i, "2026-02-20") for i in ids)
    if number == 1:
        body += RECORD.format("2602.99999", "once")
    token = f"<resumptionToken>{number + 1}</resumptionToken>" if number + 1 < PAGES else ""
    return (
        '<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/">'
        f"<ListRecords>{body}{token}</ListRecords></OAI-PMH>"
    )


def paged(url, headers):
    return page(int(url.params.get("resumptionToken", 0)))


def asked(recorded):
    return [int(url.params.get("resumptionToken", 0)) for url in recorded.asked]


def everything(hub):
    return {entry.paper.id: entry.paper for entry in hub.papers(limit=100).entries}


@pytest.fixture
def source(sources, recorded):
    recorded.answer = paged
    return sources.add("oai", "cs:cs:LG", every=timedelta(hours=6))


def test_a_source_is_kept_with_what_its_runs_did(hub, sources, source, clock):
    (state,) = sources.state()
    assert (state.name, state.began, state.due) == ("oai cs:cs:LG", None, clock())
    done = sources.sync(source.id)
    assert done == sources.state()[0]
    assert done.counts == kept.Counts(new=12, rejected=1)
    assert done.problems == (
        ("record 4", "oai:arXiv.org:2602.99999: created: expected a date, got 'once'"),
    )
    assert (done.began, done.ended, done.error) == (clock(), clock(), "")
    assert done.due == clock() + timedelta(hours=6)
    assert hub.search("paper").total == 12


def test_reading_twice_changes_nothing(hub, sources, source, clock):
    sources.sync(source.id)
    before = everything(hub)
    clock.pass_(hours=7)
    again = sources.sync(source.id)
    assert (again.counts.new, again.counts.changed, again.counts.same) == (0, 0, 12)
    assert everything(hub) == before


def test_what_is_not_due_is_left_alone(sources, source, recorded, clock):
    assert [item.id for item in sources.due()] == [source.id]
    sources.sync(source.id)
    assert sources.due() == []
    number = len(recorded.asked)
    assert sources.sync(source.id).run == 1
    assert len(recorded.asked) == number
    assert sources.sync(source.id, anyway=True).run == 2
    clock.pass_(hours=6)
    assert [item.id for item in sources.due()] == [source.id]


def test_progress_is_told(sources, source):
    steps, indexed = [], []
    sources.sync(source.id, lambda *step: steps.append(step), lambda *step: indexed.append(step))
    assert steps == [(3, None), (7, None), (10, None), (13, None)]
    assert indexed[-1][0] == 12


def test_the_same_source_is_kept_once(sources, source):
    with pytest.raises(ValueError, match="oai cs:cs:LG is a source already"):
        sources.add("oai", " cs:cs:LG ")
    other = sources.add("oai", "stat")
    assert sources.remove(source.id) and not sources.remove(source.id)
    assert [item.id for item in sources.state()] == [other.id]
    assert sources.sync(source.id) is None


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        ("gopher", {}, "no kind of source 'gopher'; there is arxiv, feed, huggingface, oai, rss"),
        ("oai", {"every": timedelta(seconds=1)}, "--every: expected ten minutes"),
        ("oai", {"options": {"since": "31.12."}}, "--since: expected a day"),
        ("oai", {"options": {"since": "1066-01-01"}}, "arXiv began in 1991"),
        ("oai", {"options": {"format": "marc"}}, "--format: expected arXiv, arXivRaw, oai_dc"),
        ("rss", {"options": {"since": "2026-01-01"}}, "rss knows no --since"),
    ],
)
def test_what_makes_no_sense_is_refused(sources, kind, more, words):
    with pytest.raises(ValueError, match=words):
        sources.add(kind, "cs", **more)


class Killed(BaseException):
    """Nothing catches it, nothing cleans up."""


def dying(what, on):
    """As `what`, but dies when it is called for the `on`th time: before it does anything."""
    calls = []

    def done(*arguments, **more):
        calls.append(1)
        if len(calls) == on:
            raise Killed
        return what(*arguments, **more)

    return done


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("place", ["fetching", "writing", "noting", "written", "ending"])
def test_a_run_killed_anywhere_goes_on_there_and_loses_and_doubles_nothing(
    hub, sources, source, recorded, clock, monkeypatch, place, nth
):
    def tell(done, total):
        return None

    with monkeypatch.context() as patch:
        if place == "fetching":
            recorded.answer = dying(paged, nth)
        elif place == "writing":
            patch.setattr(Catalog, "write", dying(Catalog.write, nth))
        elif place == "noting":
            patch.setattr(kept, "advance", dying(kept.advance, nth))
        elif place == "written":
            tell = dying(tell, nth)
        else:
            patch.setattr(kept, "finish", dying(kept.finish, 1))
        with pytest.raises(Killed):
            sources.sync(source.id, tell)
    recorded.answer = paged
    (state,) = sources.state()
    assert state.ended is None and state.error == ""
    whole = PAGES if place == "ending" else nth if place == "written" else nth - 1
    assert len(everything(hub)) == SIZE * whole
    before, recorded.asked[:] = state.counts, []
    clock.pass_(minutes=1)
    done = sources.again().sync(source.id)
    # Not one page that was in came again, but for what is asked once more after the end.
    first = whole if whole < PAGES else 0
    assert asked(recorded) == list(range(first, PAGES))
    assert (done.error, done.run) == ("", 2)
    assert len(everything(hub)) == SIZE * PAGES
    assert before.new + done.counts.new == SIZE * PAGES
    assert done.counts.same == (0 if whole < PAGES else SIZE * PAGES)


CHILD = """
import sys, time
import httpx
sys.path.insert(0, {tests!r})
from pathlib import Path
from workingpapers.hub.catalog import Catalog
from workingpapers.hub.feeds.remote import Limiter, Web
from workingpapers.hub.sources.sources import Sources
from workingpapers.hub.store.database import Store

PAGES = {pages!r}

def answer(request):
    number = int(request.url.params.get("resumptionToken", 0))
    if number == 2:
        print("there", flush=True)
        time.sleep(60)
    return httpx.Response(200, stream=httpx.ByteStream(PAGES[number].encode()))

store = Store.open({address!r})
sources = Sources(store, Catalog(store), Path({home!r}))
sources.web = Web(Limiter(0), resolve=lambda *_: ["93.184.216.34"],
                  transport=httpx.MockTransport(answer))
sources.sync({number}, anyway=True)
"""


def test_a_process_that_was_killed_leaves_no_lock_and_its_pages(
    hub, sources, source, recorded, settings, tmp_path
):
    script = tmp_path / "child.py"
    script.write_text(
        CHILD.format(
            tests=str(tmp_path),
            pages=[page(n) for n in range(PAGES)],
            address=settings.database_url,
            home=str(settings.home),
            number=source.id,
        )
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "there\n"
        with pytest.raises(Busy):  # it is alive, and the source is its own
            sources.sync(source.id, anyway=True)
        child.kill()
    assert len(everything(hub)) == 2 * SIZE
    done = sources.sync(source.id, anyway=True)
    assert asked(recorded) == [2, 3]
    assert (done.error, done.counts.new, len(everything(hub))) == ("", 6, 12)


def test_two_never_read_one_source_at_once(sources, source, recorded):
    inside, go = Event(), Event()

    def slow(url, headers):
        inside.set()
        assert go.wait(10)
        return paged(url, headers)

    recorded.answer = slow
    first = Thread(target=sources.sync, args=(source.id,))
    first.start()
    try:
        assert inside.wait(10)
        with pytest.raises(Busy):
            sources.again().sync(source.id)
    finally:
        go.set()
        first.join()
    assert asked(recorded) == [0, 1, 2, 3]
    # The one that comes after the other finds that nothing is due.
    assert sources.again().sync(source.id).run == 1


def test_a_run_that_was_overtaken_writes_nothing_more(hub, sources, source, recorded):
    def answer(url, headers):
        if url.params.get("resumptionToken") == "2":
            with hub._store.writing() as db:
                kept.begin(db, kept.find(db, source.id), source.made)
        return paged(url, headers)

    recorded.answer = answer
    done = sources.sync(source.id)
    assert (done.run, done.ended) == (2, None)
    assert len(everything(hub)) == 2 * SIZE


def test_a_source_taken_away_while_it_is_read_ends_quietly(hub, sources, source, recorded):
    def answer(url, headers):
        if url.params.get("resumptionToken") == "1":
            sources.remove(source.id)
        return paged(url, headers)

    recorded.answer = answer
    assert sources.sync(source.id) is None
    assert (sources.state(), len(everything(hub))) == ([], SIZE)


def test_a_run_that_is_stopped_ends_after_its_page_and_is_still_due(hub, sources, source, clock):
    stop = Event()
    done = sources.sync(source.id, lambda done, total: stop.set(), stop=stop)
    assert (done.error, done.ended, done.due) == ("", clock(), clock())
    assert len(everything(hub)) == SIZE
    assert sources.sync(source.id).counts.new == 3 * SIZE


def test_a_source_that_fails_is_tried_again_soon(sources, source, recorded, clock):
    recorded.answer = lambda url, headers: httpx.Response(404)
    done = sources.sync(source.id)
    assert done.error == "oaipmh.arxiv.org answered 404 Not Found"
    assert done.due == clock() + running.SOON
    recorded.answer = paged
    clock.pass_(minutes=15)
    assert sources.sync(source.id).error == ""


def test_a_fault_of_ours_is_told_and_does_not_come_at_once_again(
    sources, source, recorded, clock, monkeypatch
):
    def broken(*arguments, **more):
        raise ZeroDivisionError("a kettle")

    monkeypatch.setattr(Catalog, "write", broken)
    with pytest.raises(ZeroDivisionError):
        sources.sync(source.id)
    (state,) = sources.state()
    assert state.error == "ZeroDivisionError: a kettle"
    assert state.due == clock() + timedelta(hours=6)


def test_only_some_of_many_problems_are_kept_and_all_are_counted(sources, recorded):
    bad = "".join(RECORD.format(f"2602.{n:05}", "once") for n in range(50))
    recorded.answer = lambda url, headers: (
        '<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/">'
        f"<ListRecords>{bad}</ListRecords></OAI-PMH>"
    )
    done = sources.sync(sources.add("oai", "cs").id)
    assert (done.counts.rejected, len(done.problems)) == (50, 20)


def test_the_watch_reads_what_is_due_and_ends_when_told(hub, sources, source, recorded):
    recorded.answer = lambda url, headers: (
        paged(url, headers) if url.host == "oaipmh.arxiv.org" else httpx.Response(404)
    )
    broken = sources.add("feed", "https://tea.example/feed")
    watch = Watch(sources, look=0.01)
    done = Event()
    sync = sources.sync

    def noted(number, **more):
        try:
            return sync(number, **more)
        finally:
            if sources.due() == []:
                done.set()

    sources.sync = noted
    watch.start()
    assert done.wait(10)
    watch.stop()
    assert len(everything(hub)) == 12
    assert [item.error != "" for item in sources.state()] == [False, True]
    assert sources.state()[1].id == broken.id


def test_an_archive_carries_sources_and_where_they_go_on(
    hub, sources, source, recorded, tmp_path, new_database
):
    sources.sync(source.id, lambda done, total: None)
    archive.export(hub._store, tmp_path / "hub.tar.gz")
    store = Store.open(new_database())
    try:
        archive.restore(store, tmp_path / "hub.tar.gz")
        other = Sources(store, Catalog(store), tmp_path)
        assert other.state() == sources.state()
        assert other.add("rss", "cs.LG").id == source.id + 1
    finally:
        store.close()


def test_the_server_reads_sources_where_a_setting_says_so(settings, tmp_path, monkeypatch):
    from dataclasses import replace

    from fastapi.testclient import TestClient

    from workingpapers.hub.app import create_app
    from workingpapers.hub.settings import Settings

    assert Settings.from_environment({"WORKINGPAPERS_SYNC": "on"}).sync is True
    assert Settings.from_environment({"WORKINGPAPERS_SYNC": "off"}).sync is False
    with pytest.raises(ValueError, match="WORKINGPAPERS_SYNC: expected on or off, got 'yes'"):
        Settings.from_environment({"WORKINGPAPERS_SYNC": "yes"})
    seen = []
    for wanted in (False, True):
        looked = Event()
        monkeypatch.setattr(Sources, "due", lambda self, looked=looked: looked.set() or [])
        app = create_app(replace(settings, sync=wanted), tmp_path / "papers", fill=False)
        with TestClient(app):
            seen.append(looked.wait(5 if wanted else 0.05))
    assert seen == [False, True]
