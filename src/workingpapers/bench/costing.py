"""Runs a paper's benchmark and keeps its tables, for the paper's page."""

import importlib
from collections.abc import Callable
from datetime import date
from pathlib import Path

from workingpapers.bench.run import environment
from workingpapers.core import library
from workingpapers.core.codec import write_costs
from workingpapers.core.types import Costs, CostTable

Report = Callable[[str], None]


def measure(slug: str, report: Report, papers: Path = library.PAPERS) -> Costs:
    """Run `BENCHES` of a folder's bench.py and write its tables down.

    Args:
        slug: the folder.
        report: told in a short line what is being done.
        papers: where the folders are.

    Raises:
        ValueError: the folder has no bench.py.
    """
    if not (papers / slug / "bench.py").is_file():
        raise ValueError(f"{slug} has no benchmark")
    benches = importlib.import_module(f"workingpapers.papers.{slug}.bench").BENCHES
    sources, tables = library.costs_digest(slug, papers), []
    for name, bench in benches.items():
        report(name)
        rows = bench(lambda line, name=name: report(f"{name}: {line}"))
        cells = tuple(tuple(map(_cell, row.values())) for row in rows)
        tables.append(CostTable(name, tuple(rows[0]), cells))
    costs = Costs(tuple(tables), sources, date.today(), environment())
    path = library.costs_path(slug, papers)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_costs(path, costs)
    return costs


def _cell(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
