"""Two web processes on one database: whatever both are asked to do is done once."""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import product

import httpx
import pytest
from sqlalchemy import func, select

from workingpapers.hub.hub import Hub
from workingpapers.hub.search.encode import EncoderMissing
from workingpapers.hub.store import accounts
from workingpapers.hub.store.schema_events import events
from workingpapers.hub.store.schema_people import votes

PROGRAM = """
import sys, uvicorn
from pathlib import Path
from workingpapers.hub.app import create_app
from workingpapers.hub.settings import Settings
app = create_app(Settings.from_environment(), Path(sys.argv[2]), fill=False)
uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""
READERS, PAPERS, TIMES = 6, 4, 4


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def hub(settings, bare):
    def missing():
        raise EncoderMissing("install an encoder")

    with Hub.open(settings, bare, missing) as opened:
        yield opened


@pytest.fixture
def processes(hub, settings, tmp_path):
    """The addresses of two; each with a home of its own on PostgreSQL, as on two machines."""
    (tmp_path / "papers").mkdir()
    started, addresses = [], []
    for number in range(2):
        port = free_port()
        home = settings.home if not hub._store.is_postgresql else tmp_path / f"machine-{number}"
        env = os.environ | {
            "WORKINGPAPERS_HOME": str(home),
            "DATABASE_URL": settings.database_url,
            "WORKINGPAPERS_ENCODER": str(tmp_path / "none"),
        }
        command = [sys.executable, "-c", PROGRAM, str(port), str(tmp_path / "papers")]
        started.append(subprocess.Popen(command, env=env))
        addresses.append(f"http://127.0.0.1:{port}")
    until = time.monotonic() + 60
    for address, process in zip(addresses, started, strict=True):
        while time.monotonic() < until and process.poll() is None:
            try:
                httpx.get(f"{address}/healthz").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.05)
    yield addresses
    for process in started:
        process.terminate()
    for process in started:
        process.wait(20)


@pytest.mark.slow
def test_each_vote_counts_once_whichever_process_takes_it(hub, processes, new_paper):
    hub.add([new_paper(f"2401.0000{n}") for n in range(PAPERS)])
    with hub._store.writing() as db:
        now = datetime.now(UTC)
        made = [accounts.add(db, f"reader-{n}", f"{n}@example.org", now) for n in range(READERS)]
    tokens = [hub.people.signing.new_token(account, "test") for account in made]
    asked = list(product(range(TIMES), tokens, range(PAPERS), processes))

    def vote(wish):
        _, token, number, address = wish
        with httpx.Client(headers={"authorization": f"Bearer {token}"}, timeout=60) as client:
            return client.put(f"{address}/api/v1/papers/2401.0000{number}/vote").status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(vote, asked)) == {200}
    with hub._store.reading() as db:
        assert db.scalar(select(func.count()).select_from(votes)) == READERS * PAPERS
        recorded = select(func.count()).select_from(events).where(events.c.kind == "vote")
        assert db.scalar(recorded) == READERS * PAPERS
    for address in processes:
        for number in range(PAPERS):
            paper = httpx.get(f"{address}/api/v1/papers/2401.0000{number}").json()
            assert paper["votes"] == READERS


@pytest.mark.slow
def test_what_one_process_takes_in_the_other_finds(hub, processes, new_paper):
    hub.add([new_paper("2401.00001", "Samovars at rest")])
    for address in processes:
        found = httpx.get(f"{address}/api/v1/search", params={"q": "samovars"}).json()
        assert found["papers"][0]["title"] == "Samovars at rest"
