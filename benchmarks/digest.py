"""One issue to 10,000 readers over SMTP, the sender killed on the way, and who got it how often.

    python benchmarks/digest.py --readers 10000 --kills 5 --engines embedded postgres

The bundled edition is mailed to made-up readers; one in ten wants a topic beside it. The mail
server is a process of its own on this machine, which counts what it takes. A sender is killed at a
random moment and another is started, until `--kills` are through; the last one ends the issue. Then
every reader must have the issue, and no more may have it twice than senders were killed. The
figures are seconds on the clock, starts of processes included.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import measuring
import server
from sqlalchemy import insert, select

from workingpapers.hub.entries import Shelf
from workingpapers.hub.hub import Hub
from workingpapers.hub.search.encode import Encoder, EncoderMissing
from workingpapers.hub.settings import Settings
from workingpapers.hub.store import deliveries
from workingpapers.hub.store.schema_mail import subscribers, subscriptions

ENGINES = ("embedded", "postgres")
LEASE, FLIGHT = 0.5, 2.0  # seconds; in earnest they are minutes, which here would only be waiting

SERVER = """
import sys, threading
from aiosmtpd.controller import Controller
class Take:
    def __init__(self): self.taken = open(sys.argv[1], "w", buffering=1)
    async def handle_DATA(self, server, session, envelope):
        head = envelope.content.partition(b"Message-ID: ")[2].partition(b"\\r\\n")[0].decode()
        self.taken.write(f"{envelope.rcpt_tos[0]} {head}\\n")
        return "250 2.0.0 taken"
controller = Controller(Take(), hostname="127.0.0.1", port=int(sys.argv[2]))
controller.start()
print("ready", flush=True)
threading.Event().wait()
"""
SENDER = """
import sys, time
from datetime import timedelta
from workingpapers.hub.hub import Hub
from workingpapers.hub.settings import Settings
with Hub.open(Settings.from_environment()) as hub:
    sending = hub.mail.sending
    sending._lease, sending._flight = (timedelta(seconds=float(s)) for s in sys.argv[1:3])
    print("ready", flush=True)
    quiet = time.monotonic()
    while time.monotonic() - quiet < 2 * float(sys.argv[2]):
        if sending.step():
            quiet = time.monotonic()
        else:
            time.sleep(0.05)
"""


def missing() -> Encoder:
    """No encoder: nothing is searched here."""
    raise EncoderMissing("left out")


@contextmanager
def database(engine: str, folder: Path) -> Iterator[str]:
    """The address of an empty database."""
    if engine == "embedded":
        yield f"sqlite:///{folder / 'hub.sqlite'}"
        return
    with server.running(folder / "data") as address:
        yield server.database(address, "digest")


@contextmanager
def mail_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """A mail server's address, and the file with a line for each message that it took."""
    taken, port = folder / "taken", 20_000 + os.getpid() % 20_000
    command = [sys.executable, "-c", SERVER, str(taken), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield f"smtp://127.0.0.1:{port}", taken
    finally:
        process.kill()
        process.wait()


def subscribe(hub: Hub, number: int, topic: str) -> None:
    """Make up readers who confirmed."""
    now = datetime.now(UTC)
    rows = [
        {
            "email": f"reader{n}@lab.example",
            "key": f"key-{n:023}",
            "source": "program",
            "asked": now,
            "confirmed": now,
            "zone": "UTC",
            "hour": 0,
        }
        for n in range(number)
    ]
    with hub._store.writing() as db:
        db.execute(insert(subscribers), rows)
        wanted = [
            {"subscriber_id": i, "cadence": "daily", "kind": kind, "query": query, "made": now}
            for n, i in enumerate(db.scalars(select(subscribers.c.id)))
            for kind, query in (("edition", ""), ("topic", topic))
            if kind == "edition" or n % 10 == 0
        ]
        db.execute(insert(subscriptions), wanted)


def send(env: dict[str, str], kills: int, chance: random.Random, left: "Left") -> float:
    """Send it all, with so many deaths; returns the seconds."""
    begun = time.perf_counter()
    with measuring.progress() as bars:
        bar = bars.add_task("sending", total=left())
        while left():
            command = [sys.executable, "-c", SENDER, str(LEASE), str(FLIGHT)]
            process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            until = time.monotonic() + chance.uniform(0.5, 6.0)
            while process.poll() is None and left():
                time.sleep(0.05)
                bars.update(bar, completed=left.number - left())
                if kills and time.monotonic() > until:
                    process.send_signal(signal.SIGKILL)
                    kills -= 1
            ended = time.perf_counter()
            if left():
                process.wait()
            else:
                process.terminate()
                process.wait()
            process.stdout.close()
    return ended - begun


class Left:
    """How many readers an issue still has to reach."""

    def __init__(self, hub: Hub, issue: int, number: int) -> None:
        self._hub, self._issue, self.number = hub, issue, number

    def __call__(self) -> int:
        """Ask the database."""
        with self._hub._store.reading() as db:
            found = deliveries.progress(db, self._issue)
        return found.total - found.over


def measured(engine: str, readers: int, kills: int, seed: int) -> tuple[object, ...]:
    """The figures of one database."""
    with (
        tempfile.TemporaryDirectory() as made,
        database(engine, Path(made)) as url,
        mail_server(Path(made)) as (smtp, taken),
    ):
        settings = Settings(Path(made), url, smtp=smtp)
        with Hub.open(settings, Shelf(), missing) as hub:
            hub.fill()
            day = hub.editions()[0]
            (topic, *_) = hub.topics(1)
            subscribe(hub, readers, topic)
            begun = time.perf_counter()
            issue = hub.mail.digests.make("daily", day)
            making = time.perf_counter() - begun
            assert issue is not None
            env = os.environ | {
                "WORKINGPAPERS_HOME": made,
                "DATABASE_URL": url,
                "WORKINGPAPERS_SMTP": smtp,
            }
            sending = send(env, kills, random.Random(seed), Left(hub, issue.id, readers))
            lines = [line.split() for line in taken.read_text().splitlines()]
        times = Counter(to for to, _ in lines)
        ids = {to: {i for t, i in lines if t == to} for to, n in times.items() if n > 1}
        assert len(times) == readers, f"{readers - len(times)} readers were missed"
        assert len(lines) - readers <= kills, "somebody has it twice without need"
        assert all(len(same) == 1 for same in ids.values()), "a second copy has another Message-ID"
        rate = readers / sending
        return engine, readers, kills, f"{making:.1f}", f"{sending:.0f}", f"{rate:.0f}", len(ids)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--readers", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    head = ("database", "readers", "kills", "s to make", "s to send", "a second", "got it twice")
    rows = [measured(engine, asked.readers, asked.kills, asked.seed) for engine in asked.engines]
    if asked.json:
        measuring.out.print_json(json.dumps([dict(zip(head, row, strict=True)) for row in rows]))
    else:
        measuring.out.print(measuring.table(head, rows), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
