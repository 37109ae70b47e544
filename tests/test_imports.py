"""Who may load whom, asked of fresh interpreters and import-linter; with proof they can fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "workingpapers"
WEB = ("starlette", "fastapi", "sqlalchemy", "httpx", "jinja2", "uvicorn", "tantivy", "usearch")


def modules(part):
    """The dotted names under a package's folder, tests and checks of chance left out."""
    for path in sorted((PACKAGE / part).rglob("*.py")):
        if not path.name.startswith(("test_", "conftest")) and "/folder/" not in path.as_posix():
            name = path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".")
            yield name.removesuffix(".__init__")


def loaded(code, suspects):
    """Which suspects a fresh interpreter has loaded after running code."""
    code += f"\nimport sys; print(*(name for name in {suspects!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def importing(names):
    return "import importlib\nfor name in " + repr(list(names)) + ": importlib.import_module(name)"


def test_the_hub_loads_no_torch_and_no_paper():
    suspects = ("torch", "workingpapers.papers", "workingpapers.kit", "workingpapers.bench")
    assert loaded(importing(modules("hub")), suspects) == set()


def test_methods_and_bench_load_no_web_and_no_database():
    """But for what transformers brings, where a model is one of its classes."""
    names = [*modules("papers"), *modules("kit"), *modules("bench")]
    brought = loaded(
        "from workingpapers.kit.vision import ensure_torchvision; ensure_torchvision()\n"
        "from transformers import GenerationMixin, PreTrainedModel",
        WEB,
    )
    assert brought <= {"jinja2"}  # chat templates
    assert loaded(importing(names), WEB) <= brought


def test_help_loads_neither_torch_nor_the_web_stack():
    code = (
        "from typer.testing import CliRunner\nfrom workingpapers.cli import app\n"
        "result = CliRunner().invoke(app, ['--help'])\nassert result.exit_code == 0, result.output"
    )
    assert loaded(code, ("torch", "numpy", *WEB)) == set()


def test_core_loads_the_standard_library_and_platformdirs_alone():
    code = importing(modules("core"))
    third_party = (
        "tops = {n.split('.')[0] for n in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(*sorted(t for t in tops if not t.startswith('_') and t != 'workingpapers'))"
    )
    before = subprocess.run(
        [sys.executable, "-c", f"import sys\n{third_party}"],
        capture_output=True,
        text=True,
        check=True,
    )
    after = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{third_party}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(after.stdout.split()) - set(before.stdout.split()) <= {"platformdirs"}


@pytest.mark.parametrize("suspect", ["torch", "starlette", "sqlalchemy"])
def test_the_question_can_be_answered_yes(suspect):
    """A test that could not see a loaded module would pass for ever."""
    assert loaded(f"import {suspect}", (suspect,)) == {suspect}


def lint(folder):
    script = Path(sys.executable).parent / "lint-imports"
    return subprocess.run(
        [str(script), "--no-cache", "--no-logo", str(ROOT / "pyproject.toml")],
        capture_output=True, text=True, cwd=folder, check=False,
        env={**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1", "COLUMNS": "200"},
    )  # fmt: skip


def test_the_map_is_kept():
    done = lint(PACKAGE.parent)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("contract", "place", "line"),
    [
        ("The map", "core/places.py", "import workingpapers.hub.settings"),
        ("The hub meets papers as data", "hub/settings.py", "import workingpapers.papers.attsets"),
        ("Methods know no web", "papers/attsets/method.py", "import starlette"),
        (
            "Papers do not lean on each other",
            "papers/attsets/method.py",
            "import workingpapers.papers.evit",
        ),
        ("Only the store speaks SQL", "hub/entries.py", "import sqlalchemy"),
    ],
)
def test_each_import_rule_can_fail(tmp_path, contract, place, line):
    shutil.copytree(
        PACKAGE, tmp_path / "workingpapers", ignore=shutil.ignore_patterns("*.safetensors")
    )
    path = tmp_path / "workingpapers" / place
    path.write_text(path.read_text() + f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    broken = [text for text in done.stdout.splitlines() if "BROKEN" in text]
    assert any(contract in text for text in broken), done.stdout
