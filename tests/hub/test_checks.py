"""Checks that a worker runs: measured, bounded, cut off, and gone when they are over."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from threading import Thread

import pytest

from workingpapers.core.types import Paper
from workingpapers.hub.entries import Shelf
from workingpapers.hub.hub import Hub
from workingpapers.hub.jobs import checking, worker
from workingpapers.hub.settings import Settings

TEA = Paper("arxiv:2401.00001", "Of Teapots", (), "They pour.", date(2024, 1, 1), "")


@pytest.fixture(autouse=True)
def brisk(monkeypatch):
    monkeypatch.setattr(worker, "BEAT", 0.05)


@pytest.fixture
def hub(tmp_path, hashing, teapots):
    """A hub whose shelf has one paper."""
    teapots(seeds=3)
    settings = Settings(tmp_path, f"sqlite:///{tmp_path / 'hub.sqlite'}")
    with Hub.open(settings, Shelf(tmp_path / "papers"), lambda: hashing) as opened:
        opened.add([TEA])
        yield opened


@pytest.fixture
def chief(hub):
    signing = hub.people.signing
    return signing.by_first(signing.first_link(), "chief@lab.example").account


@pytest.fixture
def check(hub, chief):
    return lambda: hub.jobs.ask_check(chief, "teapots", ["teapots"])


def works(hub, command):
    return worker.Worker(hub, hub._store, command=command)


def said(code):
    """A command that runs this code instead of a check."""
    return lambda slug: [sys.executable, "-I", "-c", code, slug]


def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


MEASURE = """
import sys
from pathlib import Path
from datetime import date
from workingpapers.core import library
from workingpapers.core.codec import write_evidence
from workingpapers.core.types import Evidence, Measurement
papers = Path({papers!r})
for n in (1, 2, 3):
    print(f"teapots: pours {{n}}/3", flush=True)
runs = tuple(Measurement(seed, 2.0, 1.0) for seed in range(3))
twins = tuple(Measurement(seed, 1.0, 1.0) for seed in range(3))
made = Evidence(claim="pours", runs=runs, ablated=twins, sources=library.digest("teapots", papers),
                environment={{}}, recorded=date(2026, 1, 1), seconds=1.0, protocol="standard")
write_evidence(papers / sys.argv[1] / "evidence.json", (made,))
"""


def test_a_check_writes_evidence_that_the_page_notices(hub, check):
    assert hub.entry("2401.00001").headline.verdict is None
    number = check()
    code = MEASURE.format(papers=str(hub.shelf.papers))
    works(hub, command=said(code)).once()
    job = hub.jobs.find(number)
    assert (job.state, job.done, job.total) == ("done", 3, 3), job.log
    assert "teapots: pours 3/3" in job.log
    hub.shelf._looked = float("-inf")
    assert hub.entry("2401.00001").headline.verdict == "holds"
    assert [change.claim for change in hub.changes()] == ["pours"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit('no torch here')", "ended with status 1: no torch here"),
        ("import os; os.abort()", "ended by signal 6"),
        ("while True: pass", "longer than 1 seconds|1 seconds of every processor"),
        ("import time; time.sleep(60)", "longer than 1 seconds"),
        ("x = bytearray(3 * 2**30)", "MemoryError"),
        ("open('big', 'wb').truncate(2**31)", "File too large|signal 25"),
    ],
)
def test_a_check_that_goes_wrong_fails_with_a_line(hub, check, code, reason, monkeypatch):
    monkeypatch.setattr(checking, "PATIENCE", 0.5)
    hub.settings = replace(hub.settings, check_seconds=1, check_memory=1)
    number = check()
    works(hub, command=said(code)).once()
    job = hub.jobs.find(number)
    assert job.state == "failed" and re.search(reason, job.result), job.result


def test_a_check_knows_nothing_of_the_hub_and_reaches_nobody(hub, check, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://hub:hunter2@db/hub")
    monkeypatch.setenv("SMTP_PASSWORD", "hunter3")
    code = (
        "import os, socket\n"
        "print(sorted(os.environ))\n"
        "print('in', os.getcwd(), os.listdir())\n"
        "try: socket.create_connection(('127.0.0.1', 9), 1)\n"
        "except OSError as error: print('reaches', error)\n"
    )
    number = check()
    works(hub, command=said(code)).once()
    log = hub.jobs.find(number).log
    assert "'PATH'" in log and "hunter" not in log and "DATABASE_URL" not in log
    assert "papers-check-" in log and "[]" in log
    assert "Network is unreachable" in log or "does not let the check be cut off" in log


def test_nothing_that_a_check_began_outlives_it(hub, check, chief, tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "PATIENCE", 0.5)
    note = tmp_path / "child"
    code = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    number = check()
    thread = Thread(target=works(hub, command=said(code)).once)
    thread.start()
    until(lambda: note.exists() and note.read_text())
    hub.jobs.cancel(chief, number)
    thread.join(20)
    assert hub.jobs.find(number).state == "cancelled"
    until(lambda: not alive(int(note.read_text())))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return state.stdout.strip()[:1] not in ("", "Z")


def test_evidence_that_could_not_be_written_is_told_before_the_work(hub, check, monkeypatch):
    monkeypatch.setattr(checking.os, "access", lambda *_: False)
    number = check()
    works(hub, command=said("print('never run')")).once()
    job = hub.jobs.find(number)
    assert job.state == "failed" and "cannot be written" in job.result and job.log == ""


def test_the_command_is_the_one_of_the_terminal():
    assert checking.command("evit")[-3:] == ["check", "evit", "--plain"]
    assert checking.SEED.match("evit: faster 3/5")
