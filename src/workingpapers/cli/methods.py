"""Commands on methods: list, show, check, bench, data."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress, TaskID

from workingpapers.cli.console import (
    complain,
    err,
    out,
    print_json,
    progress,
    table,
    verdict_text,
)
from workingpapers.core import library
from workingpapers.core.codec import encode
from workingpapers.core.places import home
from workingpapers.core.types import Card, Claim, Evidence

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Slug = Annotated[str, typer.Argument(help="A paper's folder, as `papers list` shows it.")]


def list_(json: Json = False) -> None:
    """List the papers that are implemented, with the verdict on each headline claim."""
    rows = []
    for card in library.cards():
        found, digest = library.evidence(card.slug), library.digest(card.slug)
        rows.append((card, _standing(card, card.claims[0], found, digest)))
    if json:
        print_json(
            [
                {"slug": c.slug, "paper": c.paper, "title": c.title, "fields": c.fields}
                | {"headline": c.claims[0].text, "verdict": standing["verdict"]}
                for c, standing in rows
            ]
        )
        return
    lines = [
        (f"[bold]{c.slug}[/]", escape(c.title), ", ".join(c.fields), s["shown"]) for c, s in rows
    ]
    out.print(table("paper", "title", "fields", "headline claim", rows=lines))


def show(slug: Slug, json: Json = False) -> None:
    """Show one paper: claims and verdicts, how to use it, departures and limits."""
    card = library.card(slug)
    found, digest = library.evidence(slug), library.digest(slug)
    standings = [_standing(card, claim, found, digest) for claim in card.claims]
    if json:
        for standing in standings:
            del standing["shown"]
        print_json(encode(card) | {"standings": standings})
        return
    out.print(f"[bold]{escape(card.title)}[/]  [dim]{card.paper}[/]\n{escape(card.source)}\n")
    for claim, standing in zip(card.claims, standings, strict=True):
        out.print(f"{standing['shown']}  [bold]{claim.key}[/] [dim]({claim.scale})[/] {claim.text}")
        out.print(f"  paper: {escape(claim.reported)} [dim]({escape(claim.where)})[/]")
        if standing["evidence"]:
            out.print(f"  here:  {standing['gain']}  [dim]{escape(claim.metric)}[/]")
    out.print(f"\n[bold]Use[/]\n{escape(card.snippet.strip())}")
    for heading, lines in (("Departures", card.departures), ("Limits", card.limits)):
        if lines:
            out.print(f"\n[bold]{heading}[/]")
            for line in lines:
                out.print(f"- {escape(line)}")
    out.print(f"\nRerun: [bold]papers check {slug}[/]")


def _standing(card: Card, claim: Claim, found: tuple[Evidence, ...], digest: str) -> dict[str, Any]:
    held = next((e for e in found if (e.claim, e.protocol) == (claim.key, "standard")), None)
    verdict = library.verdict(card, claim, found, digest)
    return {
        "claim": claim.key,
        "verdict": verdict,
        "stale": held is not None and held.sources != digest,
        "evidence": encode(held) if held else None,
        "gain": gain_text(claim, held) if held else None,
        "shown": verdict_text(verdict, claim.scale, measured=held is not None),
    }


def gain_text(claim: Claim, evidence: Evidence) -> str:
    """Median and range of the gain over the seeds, and the ablated twin's median."""
    gains = [claim.gain(m) for m in evidence.runs]
    twins = [claim.gain(m) for m in evidence.ablated]
    shown = "{:+.1%}" if claim.unit == "share" else "{:+.4g}"
    low, high = shown.format(min(gains)), shown.format(max(gains))
    text = f"gain {shown.format(statistics.median(gains))} ({low} to {high})"
    if twins:
        text += f", without the idea {shown.format(statistics.median(twins))}"
    return f"{text}, margin {shown.format(claim.margin)}"


def check(
    slug: Annotated[list[str] | None, typer.Argument(help="One paper or several.")] = None,
    claim: Annotated[str | None, typer.Option(help="Only this claim.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="How many processes.")] = 1,
    long: Annotated[bool, typer.Option("--long", help="The longer variant.")] = False,
    on: Annotated[str | None, typer.Option(help="ray, or ray://host:port.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every paper.")] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="Only claims without fresh evidence.")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="A line for each seed instead of bars.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure a paper's claims against their baselines, and write the evidence.

    Each seed runs twice: with the paper's idea and with it taken out. Evidence replaces the old
    one only when a claim is finished, and only if it covers the seeds that the card asks for.
    """
    from workingpapers.bench import run

    if bool(slug) == every:
        raise ValueError("name the papers to check, or say --all")
    if on is not None and on != "ray" and not on.startswith("ray://"):
        raise ValueError(f"--on: expected ray or ray://host:port, got {on!r}")
    todo = [
        (card, item)
        for card in map(library.card, slug or library.slugs())
        for item in ([card.claim(claim)] if claim else card.claims)
        if not stale or library.verdicts(card)[item.key] is None
    ]
    if long:
        todo = [(c, item) for c, item in todo if item.key in run.checks(c.slug, long=True)]
        if not todo:
            raise ValueError("none of these claims has a longer variant")
    results = []
    with progress() as bars:
        for card, item in todo:
            bar = bars.add_task(
                f"{card.slug}: {item.key}", total=seeds or item.seeds, visible=not plain
            )
            evidence = run.run(
                card,
                item,
                seeds=seeds,
                jobs=jobs,
                long=long,
                on=on,
                on_seed=_counted(card, item, bars, bar, plain),
            )
            results.append((card, item, evidence, _keep(card, item, evidence)))
    if json:
        print_json(
            [
                encode(e)
                | {"paper": c.slug, "verdict": e.verdict(item), "written": str(path or "")}
                for c, item, e, path in results
            ]
        )
        return
    for card, item, evidence, path in results:
        shown = verdict_text(evidence.verdict(item), item.scale)
        out.print(f"\n[bold]{card.slug}[/] {item.text}")
        out.print(f"  paper    {escape(item.reported)} [dim]({escape(item.where)})[/]")
        out.print(f"  here     {gain_text(item, evidence)}")
        out.print(f"  [dim]{escape(item.metric)}; {item.scale} scale[/]")
        out.print(f"  verdict  {shown} [dim]in {evidence.seconds:.0f} s[/]")
        figure = _draw(card, item, evidence)
        if path:
            out.print(f"  [dim]evidence {path}\n  figure   {figure}[/]", soft_wrap=True)
        else:
            out.print(f"  [yellow]not written: the card asks for {item.seeds} seeds[/]")


def _counted(
    card: Card, claim: Claim, bars: Progress, bar: TaskID, plain: bool
) -> Callable[[object], None]:
    def told(pair: object) -> None:
        bars.advance(bar)
        if plain:
            task = bars.tasks[bar]
            err.print(f"{card.slug}: {claim.key} {task.completed:.0f}/{task.total:.0f}")

    return told


def _keep(card: Card, claim: Claim, evidence: Evidence) -> Path | None:
    from workingpapers.bench import run

    if len(evidence.runs) < claim.seeds:
        return None
    return run.record(card.slug, evidence)


def _draw(card: Card, claim: Claim, evidence: Evidence) -> Path:
    from workingpapers.core.figure import seeds_svg

    path = home() / "figures" / f"{card.slug}-{claim.key}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(seeds_svg(claim, evidence), encoding="utf-8")
    return path


def bench(slug: Slug, json: Json = False) -> None:
    """Measure what a method costs: time and memory against the plain way."""
    from workingpapers.bench import costing

    library.card(slug)
    with err.status(slug) as status:
        costs = costing.measure(slug, lambda line: status.update(f"{slug}: {line}"))
    if json:
        print_json(encode(costs))
        return
    for one in costs.tables:
        out.print(table(*one.columns, rows=one.rows, title=f"{slug}: {one.name}"), "")


def pictures(slug: Slug) -> None:
    """Make the pictures on a paper's page anew: what a method was given and what it made."""
    from workingpapers.bench import pictures

    library.card(slug)
    with err.status(slug) as status:
        made = pictures.make(slug, lambda line: status.update(f"{slug}: {line}"))
    for picture in made:
        out.print(f"[bold]{picture.name}[/] {picture.width}x{picture.height}: {picture.caption}")


data = typer.Typer(no_args_is_help=True)


@data.command("list")
def data_list(json: Json = False) -> None:
    """List the data sets and models that can be fetched, and which are here."""
    from workingpapers.kit.data import sources

    known = sources()
    if json:
        print_json(
            [
                {"name": name, "about": s.about, "licence": s.licence}
                | {"megabytes": s.megabytes, "present": s.present()}
                for name, s in known.items()
            ]
        )
        return
    rows = [
        (
            f"[bold]{name}[/]",
            "[green]here[/]" if s.present() else "[dim]-[/]",
            f"{s.megabytes:.0f} MB",
            escape(s.licence),
            escape(s.about),
        )
        for name, s in known.items()
    ]
    out.print(table("name", "", "size", "licence", "what", rows=rows))


@data.command("get")
def data_get(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names from `papers data list`.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All there is, about 1 GB.")] = False,
    json: Json = False,
) -> None:
    """Fetch data sets without root, each file checked against its pinned sha256."""
    from workingpapers.kit.data import sources

    if bool(names) == every:
        raise ValueError("name the data sets to get, or say --all")
    known, done, failed = sources(), {}, False
    names = names or list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"no data set {name!r}; there is {', '.join(known)}")
    for name in names:
        with err.status(f"{name} ({known[name].megabytes:.0f} MB)") as status:
            try:
                if known[name].present():
                    done[name] = "here already"
                else:
                    done[name] = str(known[name].fetch(lambda line: status.update(line)))
            except (OSError, ValueError, RuntimeError) as error:
                complain(f"{name}: {error}")
                failed = True
                continue
        if not json:
            out.print(f"{name}: {done[name]}", soft_wrap=True)
    if json:
        print_json(done)
    if failed:
        raise typer.Exit(1)
