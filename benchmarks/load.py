"""Serve a hub and drive it with locust over loopback: p50, p99 and errors of each kind of page.

    pip install -c constraints.txt '.[hub,bench]'
    python benchmarks/load.py HOME [--rate 50] [--seconds 20]

HOME is the home folder of a hub, such as `benchmarks/search.py --keep` leaves. Every reader asks
once a second, so `--rate` is both the number of readers and the requests a second. It takes about
(kinds + 1) * seconds, and no longer than twice that.
"""

import argparse
import csv
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from rich.console import Console
from rich.progress import Progress

HERE = Path(__file__).parent
KINDS = ("edition", "search", "api-search", "api-paper")
START = 120.0  # seconds that a hub may take to open


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(home: Path) -> Iterator[tuple[str, float]]:
    """Serve the hub of `home`; yields its address and the seconds it took to answer."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    # One address asks for all readers, so the limit on what one address may read is lifted.
    settings = {"WORKINGPAPERS_HOME": str(home), "WORKINGPAPERS_READS": "0"}
    command = [Path(sys.executable).with_name("papers"), "serve", "--port", str(port)]
    begun = time.monotonic()
    with tempfile.TemporaryFile() as said:
        server = subprocess.Popen(command, env=os.environ | settings, stdout=said, stderr=said)
        try:
            while True:
                try:
                    with urlopen(f"{address}/healthz", timeout=5):
                        break
                except (URLError, TimeoutError):
                    if server.poll() is not None or time.monotonic() - begun > START:
                        said.seek(0)
                        sys.exit(f"the server did not start: {said.read().decode()[-2000:]}")
                    time.sleep(0.1)
            yield address, time.monotonic() - begun
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def memory(address: str) -> str:
    """Resident memory of the server behind a port, where the system tells."""
    port = address.rpartition(":")[2]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"serve" in words and port.encode() in words:
                [line] = [x for x in (process / "status").read_text().splitlines() if "VmRSS" in x]
                return f"{int(line.split()[1]) / 1024:.0f} MiB"
        except OSError:  # it ended meanwhile
            continue
    return "unknown"


def driven(address: str, kinds: str, rate: int, seconds: int) -> list[dict[str, str]]:
    """Locust's statistics of one run, a row for each kind of page and one for all."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "locust", "-f", str(HERE / "traffic.py"), "--headless"]
        command += ["--users", str(rate), "--spawn-rate", str(max(1, rate // 4)), "--reset-stats"]
        # Readers come one after the other within four seconds, which do not count.
        command += ["--run-time", f"{seconds + 4}s"]
        command += ["--host", address, "--csv", f"{folder}/run", "--only-summary"]
        # Failed requests are counted below; locust would say so by its exit status as well.
        command += ["--exit-code-on-error", "0"]
        done = subprocess.run(
            command,
            env=os.environ | {"LOAD_KINDS": kinds},
            capture_output=True,
            text=True,
            timeout=2 * seconds + 30,
        )
        if done.returncode:
            sys.exit(f"locust: {done.stderr[-2000:]}")
        with Path(folder, "run_stats.csv").open(newline="") as file:
            return list(csv.DictReader(file))


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path, help="home folder of the hub to serve")
    parser.add_argument("--rate", type=int, default=50, help="requests a second")
    parser.add_argument("--seconds", type=int, default=20, help="of each run")
    asked = parser.parse_args()
    if not asked.home.is_dir():
        sys.exit(f"{asked.home} is no folder; make a hub with benchmarks/search.py --keep")
    runs = [(kind, kind) for kind in KINDS] + [("all kinds at once", ",".join(KINDS))]
    rows = []
    with serving(asked.home) as (address, opened), Progress(console=Console(stderr=True)) as bars:
        bar = bars.add_task("driving", total=len(runs) + 1)
        driven(address, ",".join(KINDS), asked.rate, 5)  # warm
        bars.advance(bar)
        for name, kinds in runs:
            total = driven(address, kinds, asked.rate, asked.seconds)[-1]
            rows.append((name, total))
            bars.advance(bar)
        used = memory(address)
    print(f"first answer after {opened:.1f} s, server's memory {used}, {asked.rate} readers\n")
    print("| asked | requests a second | p50 ms | p99 ms | slowest ms | errors |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, row in rows:
        cells = [f"{float(row['Requests/s']):.1f}", row["50%"], row["99%"]]
        cells += [f"{float(row['Max Response Time']):.0f}", row["Failure Count"]]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
