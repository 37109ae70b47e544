"""Commands on the page: import, search, serve."""

import os
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from workingpapers.cli import people
from workingpapers.cli.console import complain, err, out, print_json, progress, verdict_text
from workingpapers.core.codec import encode

if TYPE_CHECKING:
    from workingpapers.hub.entries import Entry
    from workingpapers.hub.hub import Hub

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def opened() -> "Hub":
    """The user's hub, with the bundled edition in it; again changes nothing, and takes no time."""
    from workingpapers.hub.hub import Hub
    from workingpapers.hub.settings import Settings

    hub = Hub.open(Settings.from_environment())
    if hub.editions():
        hub.fill()
        return hub
    with progress() as bars:
        bar = bars.add_task("filling the hub with the bundled edition")
        hub.fill(lambda done, total: bars.update(bar, completed=done, total=total))
    return hub


def search(
    query: Annotated[list[str], typer.Argument(help="Words, or a question.")],
    limit: Annotated[int, typer.Option(min=1, max=120)] = 10,
    json: Json = False,
) -> None:
    """Find papers by words and by meaning."""
    with opened() as hub:
        results = hub.search(" ".join(query), limit)
    if json:
        print_json(
            {"query": results.query, "total": results.total, "meaning": results.meaning}
            | {"note": results.note, "entries": [_plain(entry) for entry in results.entries]}
        )
        return
    for place, entry in enumerate(results.entries, 1):
        paper = entry.paper
        out.print(f"[dim]{place:>3}[/] [bold]{escape(paper.title)}[/] [dim]{paper.id}[/]")
        if entry.headline and entry.card:
            scale, measured = entry.headline.claim.scale, entry.headline.evidence is not None
            shown = verdict_text(entry.headline.verdict, scale, measured=measured)
            out.print(f"    {shown} {escape(entry.headline.claim.text)} [dim]{entry.card.slug}[/]")
    if not results.entries:
        out.print("nothing found")
    if results.note:
        err.print(f"[dim]{escape(results.note)}[/]")


def _plain(entry: "Entry") -> dict[str, Any]:
    return {
        **encode(entry.paper),
        "votes": entry.votes,
        "slug": entry.card.slug if entry.card else None,
        "verdicts": entry.verdicts,
    }


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Leave imports and checks to `papers work`.")
    ] = False,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="A line of JSON on stderr for each request.")
    ] = False,
) -> None:
    """Serve the page."""
    from workingpapers.hub.app import create_app
    from workingpapers.hub.jobs.child import Child
    from workingpapers.hub.server import serve as run
    from workingpapers.hub.settings import Settings
    from workingpapers.hub.web import watch

    settings = Settings.from_environment()
    if "WORKINGPAPERS_URL" not in os.environ:  # links in mails lead to where it is served
        settings = replace(settings, base_url=f"http://{host}:{port}")
    with opened() as hub:
        link = people.first_link(hub, settings.base_url)
    app = create_app(settings)
    out.print(f"Working Papers on [bold]http://{host}:{port}[/] (stop with Ctrl-C)")
    if link:
        out.print("Nobody looks after this hub yet; within ten minutes, open")
        out.print(link, soft_wrap=True)
    watch.log_access(every=access_log)
    child = None if no_worker else Child()
    run(app, host, port, seconds=settings.stop_seconds, child=child)


def title_of(paper: str) -> str | None:
    """What the hub calls a paper, by arXiv id; None where the hub cannot be opened."""
    try:
        with opened() as hub:
            entry = hub.entry(paper)
    except ImportError:  # installed without the extra `hub`
        return None
    return entry.paper.title if entry else None


def import_(
    sources: Annotated[list[str], typer.Argument(help="Files, arXiv ids or https addresses.")],
    edition: Annotated[str | None, typer.Option(help="The day it lists, as 2025-12-31.")] = None,
    year: Annotated[int | None, typer.Option(help="Of a saved page that leaves it out.")] = None,
    json: Json = False,
) -> None:
    """Import papers: a saved Daily Papers page, JSON, Atom, RSS, OAI-PMH, BibTeX, lists of ids.

    Good records go in, bad ones are named; the exit status is 1 if there were any.
    """
    try:
        day = date.fromisoformat(edition) if edition else None
    except ValueError:
        raise ValueError(f"--edition: expected a day such as 2025-12-31, got {edition!r}") from None
    reports = {}
    with opened() as hub, progress() as bars:
        for source in sources:
            name = source if len(source) <= 30 else f"...{source[-27:]}"
            reading = bars.add_task(name)
            indexing = bars.add_task("  indexing", visible=False)
            reports[source] = hub.load(
                source,
                day=day,
                year=year,
                on_progress=lambda done, total, bar=reading: bars.update(  # type: ignore[misc]
                    bar, completed=done, total=total
                ),
                on_index=lambda done, total, bar=indexing: bars.update(  # type: ignore[misc]
                    bar, completed=done, total=total, visible=True
                ),
            )
    if json:
        print_json(reports)
    for source, report in reports.items():
        if not json:
            counts = f"{report.new} new, {report.changed} changed, {report.same} known"
            out.print(f"{escape(source)}: {report.read} papers ({counts})", soft_wrap=True)
        for item in report.rejected:
            complain(f"{source}: {item.place}: {item.reason}")
    if any(report.rejected for report in reports.values()):
        raise typer.Exit(1)


index = typer.Typer(no_args_is_help=True)


@index.callback()
def index_group() -> None:
    """Keep `papers index rebuild` a command of a group."""


@index.command("rebuild")
def index_rebuild(json: Json = False) -> None:
    """Make the search indexes anew from the database."""
    with opened() as hub, progress() as bars:
        bar = bars.add_task("indexing")
        note = hub.rebuild_index(lambda done, total: bars.update(bar, completed=done, total=total))
    if json:
        print_json({"note": note})
    else:
        out.print(note or "indexed")
