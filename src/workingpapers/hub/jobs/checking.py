"""Runs `papers check` for a job: another process, in a group of its own, limited in every way."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread

from workingpapers.core import library

# All that a check may know of its surroundings: no address of a database, no secret of mail.
KEPT = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR", "USER", "WORKINGPAPERS_HOME", "XDG_DATA_HOME")
SEED = re.compile(r"^\S+: \S+ \d+/\d+$")  # what `papers check --plain` says after each
PATIENCE = 5.0  # seconds between asking a process to end and ending it


class CheckError(RuntimeError):
    """The check did not finish; the message says why."""


def command(slug: str) -> list[str]:
    """What measures the claims of a paper."""
    start = "from workingpapers.cli import main; main()"
    return [sys.executable, "-I", "-c", start, "check", slug, "--plain"]


def surroundings(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a check."""
    return {name: environ[name] for name in KEPT if name in environ} | {"NO_COLOR": "1"}


def must_be_writable(slug: str, papers: Path) -> None:
    """See to it before hours of work that evidence can be written.

    Raises:
        CheckError: it cannot.
    """
    path = library.evidence_path(slug, papers)
    place = path.parent
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise CheckError(f"Evidence cannot be written to {path}: the worker may not write there.")


def run(
    command: Sequence[str],
    *,
    seconds: int,
    gigabytes: int,
    on_line: Callable[[str], None],
    on_seed: Callable[[], None],
    going_on: Callable[[], None],
) -> None:
    """Run a command to its end.

    Args:
        command: what.
        seconds: by the clock; as many of each processor.
        gigabytes: of address space.
        on_line: told each line that it says.
        on_seed: told after each seed.
        going_on: asked ten times a second; what it raises ends the process.

    Raises:
        CheckError: it took too long, or failed.
    """
    confined = [sys.executable, "-I", "-m", "workingpapers.hub.jobs.confined"]
    with (
        tempfile.TemporaryDirectory(prefix="papers-check-") as empty,
        subprocess.Popen(
            [*confined, str(seconds), str(gigabytes), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=empty,
            env=surroundings(),
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        last = [""]
        reader = Thread(target=_read, args=(process, last, on_line, on_seed), daemon=True)
        reader.start()
        until = time.monotonic() + seconds
        try:
            while process.poll() is None:
                going_on()
                if time.monotonic() > until:
                    raise CheckError(f"It took longer than {seconds} seconds and was ended.")
                time.sleep(0.1)
        finally:
            _end(process)
            reader.join(PATIENCE)
    if process.returncode == -signal.SIGXCPU:
        raise CheckError(f"It used more than {seconds} seconds of every processor.")
    if process.returncode:
        how = (
            f"was ended by signal {-process.returncode}"
            if process.returncode < 0
            else f"ended with status {process.returncode}"
        )
        raise CheckError(f"The check {how}: {last[0] or 'it said nothing'}")


def _read(
    process: "subprocess.Popen[str]",
    last: list[str],
    on_line: Callable[[str], None],
    on_seed: Callable[[], None],
) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        said = line.strip()
        if not said:
            continue
        last[0] = said
        on_line(said)
        if SEED.match(said):
            on_seed()


def _end(process: "subprocess.Popen[str]") -> None:
    """End the whole group, politely first; nothing that a check began may outlive it."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            break
        if how == signal.SIGTERM:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                continue
    process.wait()
