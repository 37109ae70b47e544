"""Commands on sources: what the hub fetches again and again."""

import re
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from workingpapers.cli.console import complain, err, out, print_json, progress, table
from workingpapers.cli.hub import Json, opened

if TYPE_CHECKING:
    from workingpapers.hub.sources.sources import Source, Sources

LOOK = 60.0  # seconds between two looks with --watch
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

sync = typer.Typer()


@sync.callback(invoke_without_command=True)
def sync_(
    context: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is not due yet; once.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay, and fetch whenever something is due.")
    ] = False,
    json: Json = False,
) -> None:
    """Fetch from all sources that are due, each from where it was left.

    The exit status is 1 if a source could not be read or held bad records.
    """
    if context.invoked_subcommand:
        return
    with opened() as hub:
        sources = hub.sources
        wanted = sources.state() if everything else sources.due()
        done = _fetched(sources, wanted, anyway=everything)
        if json:
            print_json([_plain(source) for source in done])
        elif not wanted and not watch:
            said = "nothing is due" if sources.state() else "no sources: papers sync add"
            out.print(said)
        _tell(done, quiet=json)
        pause = Event()
        while watch:
            pause.wait(LOOK)
            _tell(_fetched(sources, sources.due()), quiet=json)
    if any(source.error or source.counts.rejected for source in done):
        raise typer.Exit(1)


@sync.command("add")
def sync_add(
    kind: Annotated[str, typer.Argument(help="oai, arxiv, rss, huggingface or feed.")],
    what: Annotated[
        str,
        typer.Argument(help="A set, a question, categories, a period (day, week, month), a URL."),
    ],
    every: Annotated[str | None, typer.Option(help="How often, as 30m, 6h, 1d, 2w.")] = None,
    since: Annotated[str | None, typer.Option(help="The first day, as 2025-12-31.")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="Of OAI-PMH: arXiv, arXivRaw, oai_dc.")
    ] = None,
    json: Json = False,
) -> None:
    """Add a source; the next `papers sync` fetches from it."""
    from workingpapers.hub.sources.wording import often

    options = {"since": since or "", "format": format_ or ""}
    with opened() as hub:
        made = hub.sources.add(
            kind, what, every=_duration(every) if every else None, options=options
        )
    if json:
        print_json(_plain(made))
    else:
        out.print(f"{made.id}: {escape(made.name)}, {often(made.every)}", soft_wrap=True)


@sync.command("list")
def sync_list(json: Json = False) -> None:
    """List the sources with what their last runs brought."""
    from workingpapers.hub.sources.wording import often, outcome

    with opened() as hub:
        found = hub.sources.state()
    if json:
        print_json([_plain(source) for source in found])
        return
    rows = (
        (
            str(source.id),
            escape(source.name),
            often(source.every),
            escape(outcome(source)),
            "now" if source.due <= datetime.now(UTC) else f"{source.due:%Y-%m-%d %H:%M}",
        )
        for source in found
    )
    out.print(table("", "source", "read", "last run", "due (UTC)", rows=rows))


@sync.command("remove")
def sync_remove(
    number: Annotated[int, typer.Argument(help="As `papers sync list` shows it.")],
) -> None:
    """Forget a source; its papers stay."""
    with opened() as hub:
        if not hub.sources.remove(number):
            raise ValueError(f"no source {number}; see papers sync list")
    out.print(f"forgotten: {number}")


def _fetched(sources: "Sources", wanted: "list[Source]", *, anyway: bool = False) -> "list[Source]":
    from workingpapers.hub.sources.sources import Busy

    done = []
    with progress() as bars:
        for source in wanted:
            reading = bars.add_task(escape(source.name[:40]), total=None)
            indexing = bars.add_task("  indexing", visible=False)
            try:
                after = sources.sync(
                    source.id,
                    lambda done, total, bar=reading: bars.update(  # type: ignore[misc]
                        bar, completed=done, total=total
                    ),
                    lambda done, total, bar=indexing: bars.update(  # type: ignore[misc]
                        bar, completed=done, total=total, visible=True
                    ),
                    anyway=anyway,
                )
            except Busy:
                err.print(f"{escape(source.name)}: another process reads it", soft_wrap=True)
                continue
            bars.update(reading, total=bars.tasks[reading].completed)
            done += [after] if after else []
    return done


def _tell(done: "list[Source]", *, quiet: bool) -> None:
    from workingpapers.hub.sources.wording import outcome

    for source in done:
        if not quiet:
            out.print(escape(f"{source.name}: {outcome(source)}"), soft_wrap=True)
        for place, reason in source.problems:
            complain(f"{source.name}: {place}: {reason}")
        if hidden := source.counts.rejected - len(source.problems):
            complain(f"{source.name}: {hidden} more bad records")
        if source.error:
            complain(f"{source.name}: {source.error}")


def _plain(source: "Source") -> dict[str, Any]:
    moments = ("made", "due", "began", "touched", "ended")
    told = {name: getattr(source, name) for name in moments}
    return {
        "id": source.id,
        "kind": source.kind,
        "what": source.what,
        "options": dict(source.options),
        "every": int(source.every.total_seconds()),
        "error": source.error,
        "problems": [list(problem) for problem in source.problems],
        **{name: moment.isoformat() if moment else None for name, moment in told.items()},
        **{
            name: getattr(source.counts, name)
            for name in ("new", "changed", "same", "rejected", "deleted")
        },
    }


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9]\d{0,5})([mhdw])", text.strip())
    if match is None:
        raise ValueError(f"--every: expected a time such as 30m, 6h, 1d or 2w, got {text!r}")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
