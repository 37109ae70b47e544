"""`papers new`: a folder that passes the battery but for what its author has to fill in."""

import re
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from workingpapers.cli.console import out, print_json
from workingpapers.core import library

TEMPLATES = resources.files("workingpapers.cli") / "folder"


def new(
    slug: Annotated[str, typer.Argument(help="The method's own name: lower case, a Python name.")],
    paper: Annotated[str, typer.Argument(help="arXiv id, with or without `arxiv:`.")],
    title: Annotated[str | None, typer.Option(help="Title, where the catalog has none.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Start a paper's folder: card, method, check and tests to fill in."""
    if library.checkout() is None:
        raise ValueError("papers are added in a checkout: clone the repository and run it there")
    folder = scaffold(slug, paper, title or _title(paper) or "fill in: the paper's title")
    if json:
        print_json({"folder": str(folder), "files": sorted(p.name for p in folder.iterdir())})
        return
    out.print(
        f"{folder}\nFill in card.toml first, margins before any run; then method.py,",
        soft_wrap=True,
    )
    out.print(f"test_method.py and check.py; then [bold]make paper P={slug}[/].")


def scaffold(slug: str, paper: str, title: str, papers: Path = library.PAPERS) -> Path:
    """Write the folder.

    Raises:
        ValueError: the slug is no lower-case Python name, the folder exists, or the id is none.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", slug):
        raise ValueError(f"slug: expected a lower-case Python name, got {slug!r}")
    number = paper.removeprefix("arxiv:").removeprefix("arXiv:")
    if not re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7}", number):
        raise ValueError(f"paper: expected an arXiv id such as 2611.01234, got {paper!r}")
    folder = papers / slug
    if folder.exists():
        raise ValueError(f"slug: {folder} exists already")
    folder.mkdir()
    words = {"slug": slug, "paper": f"arxiv:{number}", "title": title.replace('"', "'")}
    for source in TEMPLATES.iterdir():
        if source.name.endswith(".in"):
            text = Template(source.read_text(encoding="utf-8")).substitute(words)
            (folder / source.name.removesuffix(".in")).write_text(text, encoding="utf-8")
    return folder


def _title(paper: str) -> str | None:
    """What the catalog calls a paper: the hub where it can be opened, else the bundled edition."""
    from workingpapers.cli.hub import title_of

    return title_of(paper)
