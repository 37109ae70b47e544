"""Commands that carry a whole hub out and in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from workingpapers.cli.console import out, print_json, progress

if TYPE_CHECKING:
    from workingpapers.hub.archive import Manifest
    from workingpapers.hub.hub import Hub

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _opened() -> "Hub":
    """The user's hub as it is: the bundled edition would be in the way of a restore."""
    from workingpapers.hub.hub import Hub
    from workingpapers.hub.settings import Settings

    return Hub.open(Settings.from_environment())


def export(
    path: Annotated[Path, typer.Argument(help="A new folder, .tar.gz or .zip.")],
    sqlite: Annotated[
        bool, typer.Option("--sqlite", help="Put a copy as one SQLite database beside it.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the whole hub, people and votes included, as JSON Lines."""
    with _opened() as hub, progress() as bars:
        bar = bars.add_task("exporting")
        manifest = hub.export(
            path,
            sqlite=sqlite,
            on_progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    _tell(manifest, path, "exported", json=json)


def restore(
    what: Annotated[str, typer.Argument(help="What `papers export` wrote, or a paper's slug.")],
    source: Annotated[
        Path | None, typer.Argument(metavar="IN", help="A picture, or a cube as .npy.")
    ] = None,
    target: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="Where to write it restored.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="A trained network, as the paper's `save` wrote it.")
    ] = None,
    tile: Annotated[int | None, typer.Option(help="Side of tiles for a large picture.")] = None,
    overlap: Annotated[int | None, typer.Option(help="How far tiles overlap.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Lose what the hub holds by now.")
    ] = False,
    json: Json = False,
) -> None:
    """Restore a hub from what `papers export` wrote, or a picture with a paper's network."""
    if source is None:
        restore_hub(Path(what), replace=replace, json=json)
        return
    if target is None or state is None:
        raise ValueError(
            "a picture needs IN, OUT and --state: papers restore SLUG IN OUT --state F"
        )
    from workingpapers.cli.picture import restore_picture

    restore_picture(what, source, target, state, tile, overlap)


def restore_hub(archive: Path, *, replace: bool, json: bool) -> None:
    """Restore the user's hub, with bars for rows and index."""
    with _opened() as hub, progress() as bars:
        reading = bars.add_task("restoring")
        indexing = bars.add_task("  indexing", visible=False)
        manifest = hub.restore(
            archive,
            replace=replace,
            on_progress=lambda done, total: bars.update(reading, completed=done, total=total),
            on_index=lambda done, total: bars.update(
                indexing, completed=done, total=total, visible=True
            ),
        )
    _tell(manifest, archive, "restored", json=json)


def _tell(manifest: "Manifest", path: Path, done: str, *, json: bool) -> None:
    counts = {name: table.rows for name, table in manifest.tables.items()}
    if json:
        print_json({"path": str(path), "rows": manifest.rows, "tables": counts})
    else:
        said = f"{done} {manifest.rows} rows of {len(counts)} tables: {escape(str(path))}"
        out.print(said, soft_wrap=True)
