"""Real processes that send one issue, killed at random; and two that send it side by side."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import httpx
import pytest
from sqlalchemy import func, insert, select

from workingpapers.hub.mail.mail import Mail
from workingpapers.hub.people.post import Outbox
from workingpapers.hub.store.schema_mail import deliveries, digests, subscribers, subscriptions

pytestmark = pytest.mark.slow

DAY = date(2026, 2, 27)
PROGRAM = """
import sys, time
from datetime import timedelta
from pathlib import Path
from workingpapers.hub.entries import Shelf
from workingpapers.hub.hub import Hub
from workingpapers.hub.mail.smtp import Down
from workingpapers.hub.settings import Settings
with Hub.open(Settings.from_environment(), Shelf(Path(sys.argv[1]))) as hub:
    sending = hub.mail.sending
    sending._lease, sending._flight = timedelta(seconds=0.5), timedelta(seconds=float(sys.argv[2]))
    print("ready", flush=True)
    quiet = time.monotonic()
    while time.monotonic() - quiet < 1.5:
        if sending.step():
            quiet = time.monotonic()
        else:
            time.sleep(0.05)
"""
WEB = """
import sys, uvicorn
from pathlib import Path
from workingpapers.hub.app import create_app
from workingpapers.hub.settings import Settings
app = create_app(Settings.from_environment(), Path(sys.argv[1]), fill=False)
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""


@pytest.fixture
def hub(hub, new_paper):
    hub.add([new_paper(f"2401.0000{n}", f"Teapots of kind {n}") for n in range(3)], DAY)
    return hub


def subscribe(hub, number):
    """Make up so many readers of the daily edition."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    readers = [
        {
            "email": f"reader{n}@lab.example", "key": f"key-{n:020}", "source": "page",
            "asked": now, "confirmed": now, "zone": "UTC", "hour": 0,
        }
        for n in range(number)
    ]  # fmt: skip
    with hub._store.writing() as db:
        db.execute(insert(subscribers), readers)
        ids = db.scalars(select(subscribers.c.id))
        wants = {"cadence": "daily", "kind": "edition", "query": "", "made": now}
        db.execute(insert(subscriptions), [wants | {"subscriber_id": i} for i in ids])


def issue(hub, settings, smtp, number):
    """Make an issue for so many readers."""
    subscribe(hub, number)
    told = replace(settings, smtp=smtp.address)
    post = Outbox(hub._store, lambda: datetime.now(UTC))
    mail = Mail(hub._store, told, post, papers=hub)
    return mail.digests.make("daily", DAY)


def environment(settings, smtp, home=None):
    """Of one more process."""
    return os.environ | {  # an encoder that is not there: nothing is searched
        "WORKINGPAPERS_HOME": str(home or settings.home),
        "DATABASE_URL": settings.database_url,
        "WORKINGPAPERS_SMTP": smtp.address,
        "WORKINGPAPERS_ENCODER": str(settings.home / "none"),
    }


def started(settings, smtp, folder, flight=1.0):
    """One more process that sends."""
    command = [sys.executable, "-c", PROGRAM, str(folder), str(flight)]
    process = subprocess.Popen(
        command, env=environment(settings, smtp), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def left(hub):
    waiting = select(func.count()).where(deliveries.c.state.in_(("waiting", "sending")))
    with hub._store.reading() as db:
        return db.scalar(waiting)


def check(hub, smtp, readers, kills):
    times = Counter(smtp.recipients)
    assert set(times) == {f"reader{n}@lab.example" for n in range(readers)}  # nobody is missed
    again = {to: number for to, number in times.items() if number > 1}
    assert sum(again.values()) - len(again) <= kills  # the one in flight, at most, each time
    for to in again:
        ids = {one.message["Message-ID"] for one in smtp.taken if one.to == to}
        assert len(ids) == 1
    ended = select(deliveries.c.state, func.count()).group_by(deliveries.c.state)
    with hub._store.reading() as db:
        assert [tuple(row) for row in db.execute(ended)] == [("sent", readers)]
    return len(again)


@pytest.mark.parametrize(("readers", "most", "longest"), [(400, 12, 0.5), (10_000, 3, 20.0)])
def test_killed_at_random_it_goes_on_and_nobody_is_missed(
    hub, settings, smtp, tmp_path, readers, most, longest
):
    chance = random.Random(readers)
    issue(hub, settings, smtp, readers)
    if readers < 1000:
        smtp.on_taken = lambda taken: time.sleep(0.004)
    (tmp_path / "papers").mkdir()
    kills = 0
    while left(hub):
        process = started(settings, smtp, tmp_path / "papers")
        if kills < most:
            time.sleep(chance.uniform(0.05, longest))
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(900)
        process.stdout.close()
    assert kills >= min(most, 10)
    check(hub, smtp, readers, kills)


def test_two_processes_on_one_database_send_each_mail_once(hub, settings, smtp, tmp_path):
    readers = 300
    issue(hub, settings, smtp, readers)
    (tmp_path / "papers").mkdir()
    processes = [started(settings, smtp, tmp_path / "papers", 60.0) for _ in range(2)]
    for process in processes:
        assert process.wait(120) == 0
        process.stdout.close()
    assert check(hub, smtp, readers, 0) == 0
    assert smtp.connections >= 2 * (readers // 2 // 100)


def test_two_web_processes_make_one_issue_and_send_each_mail_once(
    hub, settings, smtp, tmp_path, new_paper
):
    readers, yesterday = 60, datetime.now(UTC).date() - timedelta(days=1)
    hub.add([new_paper("2401.00009")], yesterday)
    subscribe(hub, readers)
    (tmp_path / "papers").mkdir()
    processes, clients = [], []
    for number in range(2):
        port = smtp.free_port()
        home = tmp_path / f"machine-{number}" if hub._store.is_postgresql else None
        command = [sys.executable, "-c", WEB, str(tmp_path / "papers"), str(port)]
        processes.append(subprocess.Popen(command, env=environment(settings, smtp, home)))
        clients.append(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60))
    try:
        for number, client in enumerate(clients):
            until = time.monotonic() + 60
            while time.monotonic() < until:
                try:
                    page = client.get("/sign-in").text
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            token = re.search(r'name="token" value="([^"]+)"', page)[1]
            form = {"token": token, "email": f"person{number}@lab.example"}
            assert client.post("/sign-in", data=form).status_code == 303
        until = time.monotonic() + 60
        while len(smtp.taken) < readers + 2 and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(2.5)  # and then nothing more comes
    finally:
        for process, client in zip(processes, clients, strict=True):
            client.close()
            process.terminate()
            process.wait(30)
    persons = [to for to in smtp.recipients if to.startswith("person")]
    assert sorted(persons) == ["person0@lab.example", "person1@lab.example"]
    smtp.taken = [one for one in smtp.taken if one.to not in persons]
    check(hub, smtp, readers, 0)
    with hub._store.reading() as db:
        assert db.scalar(select(func.count()).where(digests.c.cadence == "daily")) == 1
