"""Finds cards and evidence on disk. Reads files; imports nothing that it finds."""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from threading import Lock

from workingpapers.core.codec import encode, read_card, read_costs, read_evidence, read_pictures
from workingpapers.core.places import home
from workingpapers.core.types import Card, Claim, Costs, Evidence, Picture, Verdict

PACKAGE = Path(__file__).resolve().parents[1]
PAPERS = PACKAGE / "papers"
_PARSING = Lock()  # Python 3.11 fails where two threads parse at once
# Finds files by the sha256 that a loader pins, so no change to it can change what a check reads.
UNMEASURED = {PACKAGE / "kit" / "data" / "source.py"}


def checkout() -> Path | None:
    """The root of the checkout that this code runs from, or None where it is installed."""
    root = PACKAGE.parents[1]
    return root if (root / "pyproject.toml").is_file() and PACKAGE.parent.name == "src" else None


def slugs(papers: Path = PAPERS) -> list[str]:
    """The folders that hold a card, sorted."""
    return sorted(path.parent.name for path in papers.glob("*/card.toml"))


def card(slug: str, papers: Path = PAPERS) -> Card:
    """Read one card.

    Raises:
        KeyError: there is no such folder; the message lists the nearest names.
        CodecError: the card is there and wrong.
    """
    path = papers / slug / "card.toml"
    if not path.is_file():
        import difflib

        near = difflib.get_close_matches(slug, slugs(papers), n=3, cutoff=0.4) or slugs(papers)
        raise KeyError(f"no paper {slug!r}; there is {', '.join(near) or 'none yet'}")
    return read_card(path)


def cards(papers: Path = PAPERS) -> list[Card]:
    """All cards, by slug."""
    return [card(slug, papers) for slug in slugs(papers)]


def evidence_path(slug: str, papers: Path = PAPERS) -> Path:
    """Where a check run here writes: the folder in a checkout, else the user's data folder."""
    return _own(slug, papers, "evidence")


def _own(slug: str, papers: Path, what: str) -> Path:
    if papers != PAPERS or checkout():
        return papers / slug / f"{what}.json"
    return home() / what / f"{slug}.json"


def costs_path(slug: str, papers: Path = PAPERS) -> Path:
    """Where a benchmark run here writes: beside the evidence."""
    return _own(slug, papers, "costs")


def costs(slug: str, papers: Path = PAPERS) -> Costs | None:
    """What a method costs: by the user's own run, else by the one that came with the package."""
    return read_costs(costs_path(slug, papers)) or read_costs(papers / slug / "costs.json")


def costs_digest(slug: str, papers: Path = PAPERS) -> str:
    """Sha256 of the code that a method's benchmark measures, as `digest` is of its checks'."""
    return _code_digest(slug, papers, "bench.py").hexdigest()


def evidence(slug: str, papers: Path = PAPERS) -> tuple[Evidence, ...]:
    """What was measured: the user's own runs first, then what came with the package."""
    own = evidence_path(slug, papers)
    shipped = papers / slug / "evidence.json"
    read = read_evidence(own)
    if own == shipped:
        return read
    mine = {(e.claim, e.protocol) for e in read}
    return read + tuple(e for e in read_evidence(shipped) if (e.claim, e.protocol) not in mine)


def verdict(card: Card, claim: Claim, found: tuple[Evidence, ...], digest: str) -> Verdict | None:
    """The standing of one claim; None where it is unmeasured or the evidence is stale."""
    for item in found:
        if item.claim == claim.key and item.protocol == "standard":
            return item.verdict(claim) if item.sources == digest else None
    return None


def verdicts(card: Card, papers: Path = PAPERS) -> Mapping[str, Verdict | None]:
    """The standing of each claim of a card, by key."""
    found, now = evidence(card.slug, papers), digest(card.slug, papers)
    return {claim.key: verdict(card, claim, found, now) for claim in card.claims}


def digest(slug: str, papers: Path = PAPERS) -> str:
    """Sha256 of what a check of `slug` measures.

    That is the code reachable from check.py by imports, inside the folder and in `kit/`, and what
    the card fixes before a run (margins, metrics, seeds). Comments, docstrings and layout do not
    count, so prose can be mended without measuring again.
    """
    total = _code_digest(slug, papers, "check.py")
    for claim in read_card(papers / slug / "card.toml").claims:
        fixed = encode(claim)
        kept = ("key", "better", "unit", "margin", "scale", "seeds", "metric")
        total.update(repr([(key, fixed[key]) for key in kept]).encode())
    return total.hexdigest()


def pictures(slug: str, papers: Path = PAPERS) -> tuple[Picture, ...]:
    """The pictures that came with a method, and what is known of them; mostly there are none."""
    return read_pictures(papers / slug / "pictures" / "pictures.json")


def picture_digest(slug: str, papers: Path = PAPERS) -> str:
    """Sha256 of the code that makes a method's pictures, as `digest` is of its checks'."""
    return _code_digest(slug, papers, "pictures.py").hexdigest()


def _code_digest(slug: str, papers: Path, file: str) -> "hashlib._Hash":
    total = hashlib.sha256()
    for path in sorted(measured(slug, papers, file)):
        anchor = PACKAGE if path.is_relative_to(PACKAGE) else papers
        total.update(f"{path.relative_to(anchor).as_posix()}\n".encode())
        total.update(_code(path, path.stat().st_mtime_ns).encode())
    return total


def measured(slug: str, papers: Path = PAPERS, file: str = "check.py") -> set[Path]:
    """The files that `slug`'s checks run: check.py and all that it imports from here and kit."""
    seen: set[Path] = set()
    waiting = [papers / slug / file]
    while waiting:
        path = waiting.pop()
        if path in seen or path in UNMEASURED or not path.is_file():
            continue
        seen.add(path)
        waiting.extend(_imports(path, slug, papers))
    return seen


def _imports(path: Path, slug: str, papers: Path) -> Iterator[Path]:
    own, kit = f"workingpapers.papers.{slug}", "workingpapers.kit"
    for node in ast.walk(_parsed(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name == own or name.startswith(own + "."):
                base = papers / slug / Path(*name.split(".")[3:])
            elif name == kit or name.startswith(kit + "."):
                base = PACKAGE / Path(*name.split(".")[1:])
            else:
                continue
            yield base.with_suffix(".py")
            yield base / "__init__.py"


@lru_cache(maxsize=1024)
def _code(path: Path, _modified: int) -> str:
    """A file's syntax tree as text, the same on every Python that can parse it."""
    return _shape(_parsed(path))


def _parsed(path: Path) -> ast.Module:
    with _PARSING:
        return ast.parse(path.read_bytes())


def _shape(node: object) -> str:
    if isinstance(node, list):
        return "[" + ",".join(map(_shape, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list) and _is_docstring(node, value):
            value = value[1:]
        if value is None or value == [] or name in ("kind", "type_comment", "ctx"):
            continue  # what one version writes and another leaves out
        parts.append(f"{name}={_shape(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _is_docstring(node: ast.AST, body: list[ast.AST]) -> bool:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    first = body[0] if body else None
    return (
        isinstance(node, documented)
        and isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
