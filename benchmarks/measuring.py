"""Times, memory and tables, as all benchmarks print them."""

import os
import re
import resource
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

out, err = Console(), Console(stderr=True)


def progress() -> Progress:
    """A bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=err)


def timed(ask: Callable[[str], object], queries: Sequence[str], warm: int = 20) -> list[float]:
    """Milliseconds of each query, one after the other, after `warm` of them untimed."""
    for query in queries[:warm]:
        ask(query)
    taken = []
    for query in queries:
        start = time.perf_counter()
        ask(query)
        taken.append(1000 * (time.perf_counter() - start))
    return taken


def quantiles(milliseconds: Sequence[float]) -> list[str]:
    """The median and the 95th percentile."""
    return [f"{value:.1f}" for value in np.percentile(milliseconds, [50, 95])]


def memory() -> float:
    """The most that this process has held in memory, files that it maps included, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_of_server(folder: Path) -> float:
    """What a PostgreSQL server and its children hold now, shared memory counted once, in MB."""
    total = 0
    for process in _processes(folder):
        told = (process / "smaps_rollup").read_text(encoding="utf-8")
        total += int(re.search(r"^Pss:\s+(\d+) kB", told, re.MULTILINE)[1])
    return total / 1024


def _processes(folder: Path) -> list[Path]:
    postmaster = (folder / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0]
    children = subprocess.run(["pgrep", "-P", postmaster], capture_output=True, text=True)
    return [Path("/proc") / process for process in [postmaster, *children.stdout.split()]]


def cpu_of_server(folder: Path) -> float:
    """Seconds of processor time that a PostgreSQL server's present processes have taken."""
    return sum(
        sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:13]))
        for process in _processes(folder)
    ) / os.sysconf("SC_CLK_TCK")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def short(papers: int) -> str:
    """10,000 as 10k, 1,000,000 as 1m."""
    return f"{papers // 1_000_000}m" if papers % 1_000_000 == 0 else f"{papers // 1000}k"
