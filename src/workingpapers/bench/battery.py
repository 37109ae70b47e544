"""The rules that every folder under papers/ passes; found, never listed.

Each rule takes a slug and returns complaints, one line each; an empty list is a pass. The test
suite runs all of them over all folders, and `papers new` promises what it scaffolds against them.
"""

import contextlib
import importlib
import inspect
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from workingpapers.core import library

REQUIRED = ("__init__.py", "card.toml", "method.py", "check.py", "test_method.py", "evidence.json")
UNFILLED = "fill in"  # what a scaffold writes where an author has to

_STATE = """
import importlib, json, sys, warnings
import torch
import workingpapers.papers
workingpapers.papers.__path__.append(sys.argv[2])
def state():
    return [str(torch.get_default_dtype()), torch.get_num_threads(), torch.is_grad_enabled(),
            torch.initial_seed(), torch.get_rng_state().sum().item(),
            torch.are_deterministic_algorithms_enabled(), len(warnings.filters),
            sys.getrecursionlimit()]
before = state()
importlib.import_module(sys.argv[1])
heavy = ["timm", "transformers", "peft", "torch_geometric", "sklearn", "torchvision", "matplotlib"]
print(json.dumps([before, state(), [name for name in heavy if name in sys.modules]]))
"""


def files(slug: str, papers: Path = library.PAPERS) -> list[str]:
    """The six files are there, golden tensors and parity come together, and nothing strays."""
    names = {p.name for p in (papers / slug).iterdir() if p.name != "__pycache__"}
    wrong = [f"{name} is missing" for name in REQUIRED if name not in names]
    if ("golden.safetensors" in names) != ("parity.py" in names):
        wrong.append("golden.safetensors and parity.py come together")
    if "pictures" in names and "pictures.py" not in names:
        wrong.append("pictures is there, and no pictures.py that made it")
    allowed = {*REQUIRED, "golden.safetensors", "costs.json", "pictures"}
    strays = sorted(n for n in names - allowed if not n.endswith(".py"))
    return wrong + [f"{name} does not belong here" for name in strays]


def card(slug: str, papers: Path = library.PAPERS) -> list[str]:
    """The card says all that the page needs, and nothing is left to fill in."""
    read = library.card(slug, papers)
    wrong = []
    if not read.exports:
        wrong.append("exports: expected one name or more")
    if not read.source:
        wrong.append("source: expected what was read, its version and licence")
    if UNFILLED in (papers / slug / "card.toml").read_text(encoding="utf-8"):
        wrong.append(f"card.toml: {UNFILLED!r} stands where something has to be filled in")
    return wrong


def exports(slug: str, papers: Path = library.PAPERS) -> list[str]:
    """What the card offers exists, is all of `__all__`, and says its Source and its Shapes."""
    read, module = library.card(slug, papers), _module(slug)
    wrong = []
    if sorted(module.__all__) != sorted(read.exports):
        wrong.append(f"__all__ is {sorted(module.__all__)}, the card offers {sorted(read.exports)}")
    for name in read.exports:
        thing = getattr(module, name, None)
        if thing is None:
            wrong.append(f"{name} is not there")
            continue
        text = inspect.getdoc(thing) or ""
        if not text:
            wrong.append(f"{name} has no docstring")
        elif "Source:" not in text:
            wrong.append(f"{name}: its docstring has no 'Source:'")
        if _works_on_tensors(thing) and "Shapes:" not in text:
            wrong.append(f"{name}: its docstring has no 'Shapes:'")
    return wrong


def _works_on_tensors(thing: object) -> bool:
    import torch

    if inspect.isclass(thing):
        return issubclass(thing, torch.nn.Module)
    if not inspect.isfunction(thing):
        return False
    return any("Tensor" in str(value) for value in thing.__annotations__.values())


def checks(slug: str, papers: Path = library.PAPERS) -> list[str]:
    """Every claim has its check, every check its claim."""
    claims = {claim.key for claim in library.card(slug, papers).claims}
    module = _module(f"{slug}.check")
    wrong = []
    if set(module.CHECKS) != claims:
        wrong.append(f"CHECKS has {sorted(module.CHECKS)}, the card claims {sorted(claims)}")
    if not set(getattr(module, "LONG", {})) <= claims:
        wrong.append(f"LONG has {sorted(module.LONG)}, the card claims {sorted(claims)}")
    return wrong


def evidence(slug: str, papers: Path = library.PAPERS) -> list[str]:
    """Every claim was measured with the code and margins of today, over all its seeds."""
    read, now = library.card(slug, papers), library.digest(slug, papers)
    found = {(e.claim, e.protocol): e for e in library.evidence(slug, papers)}
    wrong = []
    for claim in read.claims:
        item = found.pop((claim.key, "standard"), None)
        found.pop((claim.key, "long"), None)
        if item is None:
            wrong.append(f"{claim.key}: no evidence; run `papers check {slug}`")
        elif item.sources != now:
            wrong.append(f"{claim.key}: stale evidence; run `papers check {slug}`")
        else:
            for kind, runs in (("runs", item.runs), ("ablated", item.ablated)):
                if [m.seed for m in runs] != list(range(max(claim.seeds, len(runs)))):
                    wrong.append(f"{claim.key}: {kind} need seeds 0 to {claim.seeds - 1}")
    return wrong + [f"{key}: evidence of a claim that is not on the card" for key, _ in found]


def pictures(slug: str, papers: Path = library.PAPERS) -> list[str]:
    """Every picture is there, and was made by the code of today."""
    made = library.pictures(slug, papers)
    if not made:
        return []
    now, folder = library.picture_digest(slug, papers), papers / slug / "pictures"
    stale = [p.name for p in made if p.sources != now]
    wrong = [f"{name}: made by other code; run `papers pictures {slug}`" for name in stale]
    names = {"pictures.json", *(picture.name for picture in made)}
    strays = names ^ {path.name for path in folder.iterdir()}
    return wrong + [f"pictures/{name}: listed and missing, or not listed" for name in strays]


def imports(slug: str, papers: Path = library.PAPERS) -> list[str]:
    """Importing the folder changes nothing global and loads none of the libraries it plugs into."""
    name = f"{_package()}.{slug}"
    done = subprocess.run(
        [sys.executable, "-c", _STATE, name, str(papers)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return [f"importing {name} fails: {done.stderr.strip().splitlines()[-1]}"]
    before, after, heavy = json.loads(done.stdout)
    wrong = [] if before == after else [f"import changes global state: {before} -> {after}"]
    return wrong + [f"import loads {module}" for module in heavy]


def parity(slug: str, papers: Path = library.PAPERS) -> list[str]:
    """Our code under the official names answers as the official code did."""
    path = papers / slug / "golden.safetensors"
    if not path.is_file():
        return []
    from workingpapers.kit import golden

    file, tolerances = golden.read(path), library.card(slug, papers).parity
    got = _module(f"{slug}.parity").run(file.config, file.state, file.inputs)
    return golden.differences(got, file.expected, tolerances)


def snippet(slug: str, papers: Path = library.PAPERS) -> list[str]:
    """The lines of Python on the card run."""
    code = compile(library.card(slug, papers).snippet, f"{slug}/card.toml: snippet", "exec")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, {"__name__": "snippet"})
    return []


def _package() -> str:
    return f"{__package__.partition('.')[0]}.papers"


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{_package()}.{name}")


Rule = Callable[..., list[str]]  # (slug, papers)
RULES: tuple[Rule, ...] = (
    files, card, exports, checks, evidence, pictures, imports, parity, snippet,
)  # fmt: skip
