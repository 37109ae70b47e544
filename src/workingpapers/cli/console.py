"""What goes to the terminal: results on stdout, progress and complaints on stderr."""

import json
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from workingpapers.core.codec import encode
from workingpapers.core.figure import wording
from workingpapers.core.types import Verdict

out = Console()
err = Console(stderr=True)

COLOURS = {
    Verdict.HOLDS: "green",
    Verdict.UNDECIDED: "yellow",
    Verdict.REVERSED: "red",
    Verdict.VOID: "magenta",
}


def print_json(value: Any) -> None:
    """Print core types or plain values as JSON."""
    out.print_json(json.dumps(encode(value), ensure_ascii=False))


def complain(what: object) -> None:
    """Say in one line on stderr what went wrong."""
    err.print(f"[bold red]error:[/] {escape(' '.join(str(what).split()))}", soft_wrap=True)


def verdict_text(verdict: Verdict | None, scale: str = "exact", *, measured: bool = True) -> str:
    """A verdict in words and colour; a check below exact scale speaks for this scale alone."""
    if verdict is None:
        return "[dim]stale[/]" if measured else "[dim]not measured[/]"
    return f"[{COLOURS[verdict]}]{wording(verdict, scale)}[/]"


def table(*columns: str, rows: Iterable[Iterable[str]], title: str | None = None) -> Table:
    """A quiet table."""
    made = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        made.add_row(*row)
    return made


def progress() -> Progress:
    """A bar on stderr for anything over two seconds."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=err,
    )
