"""One limiter for all that is asked of arXiv, over threads and processes of a hub."""

import itertools
import subprocess
import sys
import time
from threading import Thread

import httpx
import pytest

from workingpapers.hub.feeds.remote import Later, Web
from workingpapers.hub.search.lock import Busy
from workingpapers.hub.sources.turns import SharedTurns, held
from workingpapers.hub.store import sources
from workingpapers.hub.store.database import Store


@pytest.fixture
def store(settings):
    opened = Store.open(settings.database_url)
    yield opened
    opened.close()


def test_a_turn_waits_for_the_last_one(store, tmp_path):
    slept = []
    turns = SharedTurns(store, tmp_path, 3.0, slept.append)
    with turns.turn():
        assert slept == []
    with SharedTurns(store, tmp_path, 3.0, slept.append).turn():
        (seconds,) = slept
        assert 2 < seconds <= 3


def test_a_clock_set_back_holds_nobody_up(store, tmp_path):
    with store.writing() as db:
        sources.asked(db, "arxiv.org", 86400.0)
    slept = []
    with SharedTurns(store, tmp_path, 3.0, slept.append).turn():
        assert slept == [3.0]


def test_one_who_gets_no_turn_is_told_to_come_again(store, tmp_path):
    with SharedTurns(store, tmp_path).turn():
        with pytest.raises(Later, match="asked by others"):
            with SharedTurns(store, tmp_path, patience=0).turn():
                pass


def test_a_lock_is_had_by_one_at_a_time(store, tmp_path):
    with held(store, tmp_path, "tea", 0):
        with pytest.raises(Busy):
            with held(store, tmp_path, "tea", 0):
                pass
        with held(store, tmp_path, "kettle", 0):
            pass
    with held(store, tmp_path, "tea", 0):
        pass


def test_a_lock_is_given_back_when_its_holder_fails(store, tmp_path):
    with pytest.raises(ZeroDivisionError), held(store, tmp_path, "tea", 0):
        raise ZeroDivisionError
    with held(store, tmp_path, "tea", 0):
        pass


def test_threads_ask_arxiv_one_after_the_other(store, tmp_path):
    spans = []

    def answer(request):
        began = time.monotonic()
        time.sleep(0.05)
        spans.append((began, time.monotonic()))
        return httpx.Response(200, stream=httpx.ByteStream(b"tea"))

    web = Web(
        SharedTurns(store, tmp_path, 0.1),
        resolve=lambda *_: ["93.184.216.34"],
        transport=httpx.MockTransport(answer),
    )
    hosts = ("export.arxiv.org", "oaipmh.arxiv.org", "rss.arxiv.org", "arxiv.org")
    threads = [Thread(target=web.fetch, args=(f"https://{host}/",)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spans) == 4
    for (began, ended), (following, _) in zip(sorted(spans), sorted(spans)[1:], strict=False):
        assert following >= ended
        assert following - began >= 0.08


CHILD = """
import sys, time
from pathlib import Path
from workingpapers.hub.sources.turns import SharedTurns
from workingpapers.hub.store.database import Store

store = Store.open({address!r})
turns = SharedTurns(store, Path({home!r}), {pause})
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    with turns.turn():
        print(time.time(), flush=True)
        time.sleep(0.05)
        print(time.time(), flush=True)
"""


def test_processes_ask_arxiv_one_after_the_other(settings, tmp_path):
    pause = 0.2
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(address=settings.database_url, home=str(tmp_path), pause=pause))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen([sys.executable, script], **pipes) for _ in range(2)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    moments = []
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        told, _ = child.communicate(timeout=60)
        assert child.returncode == 0
        moments += [float(line) for line in told.split()]
    spans = sorted(zip(moments[::2], moments[1::2], strict=True))
    assert len(spans) == 6
    for (began, ended), (following, _) in itertools.pairwise(spans):
        assert following >= ended
        assert following - began >= pause - 0.05


def test_the_moment_is_kept_for_a_hub_that_is_opened_again(settings):
    first = Store.open(settings.database_url)
    with first.writing() as db:
        sources.asked(db, "arxiv.org", 3.0)
    first.close()
    second = Store.open(settings.database_url)
    with second.reading() as db:
        assert 2 < sources.pause(db, "arxiv.org") <= 3
        assert sources.pause(db, "example.org") == 0
    second.close()
