"""Jobs: queued, taken by one worker, told of while they run, lost and found again."""

import json
import time
from datetime import date
from threading import Event, Thread

import pytest

from workingpapers.hub.jobs import worker
from workingpapers.hub.jobs.jobs import MOST_WAITING, Jobs, sourced
from workingpapers.hub.people.community import Mistaken, Refused
from workingpapers.hub.store import audit
from workingpapers.hub.store import jobs as rows


@pytest.fixture(autouse=True)
def brisk(monkeypatch):
    monkeypatch.setattr(worker, "BEAT", 0.05)
    monkeypatch.setattr(worker, "LOOK", 0.05)


@pytest.fixture
def jobs(people, hub, clock):
    hub.jobs = Jobs(hub._store, hub.people.moderation, clock)
    return hub.jobs


def works(hub, clock=None):
    return worker.Worker(hub, hub._store, clock=clock)


def json_of(*numbers):
    papers = [
        {"id": n, "title": f"Paper {n}", "summary": "Words.", "publishedAt": "2024-01-01T00:00:00Z"}
        for n in numbers
    ]
    return json.dumps([{"paper": paper} for paper in papers]).encode()


def test_a_file_is_imported_and_the_job_says_what_became_of_it(hub, jobs, chief):
    number = jobs.ask_import(chief, "list.json", payload=json_of("2402.00001", "2402.00002"))
    assert jobs.find(number).state == "queued"
    assert works(hub).once()
    job = jobs.find(number)
    assert (job.state, job.result) == ("done", "2 papers: 2 new, 0 changed, 0 known")
    assert hub.entry("2402.00002") is not None
    with hub._store.reading() as db:
        assert rows.payload(db, number) is None
        deeds = [(deed.actor, deed.action, deed.subject) for deed in audit.newest(db, 1)]
    assert deeds == [("chief", f"started import {number} of", "list.json")]
    assert not works(hub).once()


def test_an_edition_can_be_named_and_bad_records_are_in_the_log(hub, jobs, chief):
    sent = json.loads(json_of("2402.00001"))
    sent.append({"paper": {"id": "2402.00002"}})
    number = jobs.ask_import(
        chief, "x", payload=json.dumps(sent).encode(), edition=date(2026, 1, 5)
    )
    works(hub).once()
    job = jobs.find(number)
    assert job.state == "done" and "1 refused" in job.result and "title" in job.log
    assert hub.editions() == [date(2026, 1, 5)]


@pytest.mark.parametrize(
    "source",
    ["", "  ", "/etc/passwd", "list.txt", "http://arxiv.org/abs/1", "file:///etc/passwd",
     "1808.00758 /etc/passwd", "https://a.example https://b.example", "x" * 3000],
)  # fmt: skip
def test_a_worker_is_never_sent_to_its_own_disk(source):
    with pytest.raises(Mistaken):
        sourced(source)


def test_what_cannot_be_fetched_fails_with_the_reason(hub, jobs, chief, monkeypatch):
    def unreachable(source, **_):
        raise RuntimeError("arxiv.org is not known:\n no network")

    monkeypatch.setattr(hub, "load", unreachable)
    number = jobs.ask_import(chief, "1808.00758")
    works(hub).once()
    job = jobs.find(number)
    assert (job.state, job.result) == ("failed", "arxiv.org is not known: no network")


def test_a_bug_ends_the_job_and_not_the_worker(hub, jobs, chief, monkeypatch, caplog):
    monkeypatch.setattr(hub, "load", lambda source, **_: {}["missing"])
    number = jobs.ask_import(chief, "1808.00758")
    assert works(hub).once()
    assert jobs.find(number).state == "failed" and "broke" in caplog.text


def test_only_administrators_start_and_stop(jobs, join):
    ada = join("ada")
    for ask in (lambda: jobs.ask_import(ada, "1808.00758"), lambda: jobs.ask_check(ada, "x", ["x"]),
                lambda: jobs.cancel(ada, 1)):  # fmt: skip
        with pytest.raises(Refused):
            ask()


def test_only_so_many_wait_and_only_known_papers_are_checked(jobs, chief):
    with pytest.raises(Mistaken, match="no paper of that name"):
        jobs.ask_check(chief, "../papers", ["teapots"])
    with pytest.raises(Mistaken, match="empty"):
        jobs.ask_import(chief, "file", payload=b"")
    for _ in range(MOST_WAITING):
        jobs.ask_check(chief, "teapots", ["teapots"])
    with pytest.raises(Mistaken, match="waiting already"):
        jobs.ask_check(chief, "teapots", ["teapots"])


def test_one_job_runs_at_a_time_in_the_order_asked(hub, jobs, chief, clock):
    first = jobs.ask_check(chief, "a", ["a"])
    second = jobs.ask_check(chief, "b", ["b"])
    with hub._store.writing() as db:
        assert rows.take(db, "one", clock()).id == first
        assert rows.take(db, "two", clock()) is None
        rows.end(db, first, "done", "", clock())
        assert rows.take(db, "two", clock()).id == second
    assert jobs.counts() == {"done": 1, "running": 1}


def test_a_dead_workers_job_goes_to_the_next_and_in_the_end_fails(hub, jobs, chief, clock):
    number = jobs.ask_check(chief, "a", ["a"])
    for attempt in range(1, rows.MOST_ATTEMPTS + 1):
        with hub._store.writing() as db:
            assert rows.take(db, f"worker {attempt}", clock()).attempts == attempt
        clock.pass_(seconds=29)
        with hub._store.writing() as db:
            assert rows.take(db, "other", clock()) is None
        clock.pass_(seconds=2)
    with hub._store.writing() as db:
        assert rows.take(db, "other", clock()) is None
        assert rows.renew(db, number, "worker 1", clock()) is None
    job = jobs.find(number)
    assert job.state == "failed" and "stopped 2 times" in job.result


def test_a_renewed_lease_lasts_and_every_change_has_a_version(hub, jobs, chief, clock):
    number = jobs.ask_check(chief, "a", ["a"])
    with hub._store.writing() as db:
        version = rows.take(db, "one", clock()).version
        clock.pass_(seconds=20)
        assert rows.renew(db, number, "one", clock(), done=3) is False
        assert rows.find(db, number).version == version + 1
        assert rows.renew(db, number, "one", clock()) is False
        assert rows.find(db, number).version == version + 1
        clock.pass_(seconds=20)
        assert rows.take(db, "two", clock()) is None
        assert rows.cancel(db, number, clock())
        assert rows.renew(db, number, "one", clock()) is True


def test_a_waiting_job_is_cancelled_at_once(jobs, chief):
    number = jobs.ask_check(chief, "a", ["a"])
    assert jobs.cancel(chief, number)
    assert jobs.find(number).state == "cancelled"
    assert not jobs.cancel(chief, number) and not jobs.cancel(chief, 999)


def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_running_import_stops_where_somebody_cancels_it(hub, jobs, chief, monkeypatch):
    begun = Event()

    def slow(source, *, on_progress, **_):
        for done in range(10_000):
            on_progress(done, 10_000)
            begun.set()
            time.sleep(0.01)

    monkeypatch.setattr(hub, "load", slow)
    number = jobs.ask_import(chief, "1808.00758")
    thread = Thread(target=works(hub).once)
    thread.start()
    begun.wait(10)
    until(lambda: jobs.find(number).done > 0)
    assert jobs.find(number).total == 10_000 and jobs.find(number).phase == "papers"
    assert jobs.cancel(chief, number)
    thread.join(10)
    assert not thread.is_alive() and jobs.find(number).state == "cancelled"


def test_a_worker_that_is_told_to_stop_puts_its_job_back(hub, jobs, chief, monkeypatch):
    begun = Event()

    def slow(source, *, on_progress, **_):
        while True:
            on_progress(1, None)
            begun.set()
            time.sleep(0.01)

    monkeypatch.setattr(hub, "load", slow)
    number = jobs.ask_import(chief, "1808.00758")
    one = works(hub)
    thread = Thread(target=one.run)
    thread.start()
    begun.wait(10)
    one.stop()
    thread.join(10)
    job = jobs.find(number)
    assert not thread.is_alive()
    assert (job.state, job.attempts, job.worker) == ("queued", 0, None)


def test_a_worker_that_cannot_stop_puts_its_job_back_and_goes(hub, jobs, chief, monkeypatch):
    monkeypatch.setitem(worker.GRACE, "import", 0.1)
    begun, left = Event(), Event()

    def deaf(source, **_):
        begun.set()
        left.wait(10)

    monkeypatch.setattr(hub, "load", deaf)
    number = jobs.ask_import(chief, "1808.00758")
    one = worker.Worker(hub, hub._store, leave=left.set)
    thread = Thread(target=one.run)
    thread.start()
    begun.wait(10)
    one.stop()
    assert left.wait(10)
    job = jobs.find(number)
    assert (job.state, job.attempts, job.worker) == ("queued", 0, None)
    thread.join(10)
    assert jobs.find(number).state == "queued"


def test_a_worker_is_seen(hub, jobs, clock):
    assert not jobs.has_worker()
    works(hub, clock).once()
    assert jobs.has_worker()
    clock.pass_(minutes=1)
    assert not jobs.has_worker()
