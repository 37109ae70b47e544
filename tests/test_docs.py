"""What can be asked for is documented; what is generated is today's."""

import importlib.util
import re
from pathlib import Path

import pytest
import typer.main

from workingpapers.cli import app
from workingpapers.core import library

ROOT = Path(__file__).resolve().parents[1]
DOCS = "\n".join(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))


def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(group=None, prefix="papers"):
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda value: str(value))
def test_every_command_and_option_is_documented(name, command):
    text = (ROOT / "docs" / "guide" / "commands.md").read_text()
    assert f"`{name} " in text or f"`{name}`" in text
    options = {o for p in command.params for o in p.opts if o.startswith("--")}
    for option in options - {"--json", "--help"}:
        assert f"`{option}`" in text, f"{name} {option}"


def test_every_setting_is_documented():
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    settings = set(re.findall(r'"((?:WORKINGPAPERS|PAPERS)_[A-Z_]+|DATABASE_URL)"', source))
    assert {"WORKINGPAPERS_HOME", "DATABASE_URL"} <= settings
    text = (ROOT / "docs" / "hub" / "settings.md").read_text()
    assert {name for name in settings if f"`{name}`" not in text} == set()


def test_every_route_is_documented():
    from workingpapers.hub.app import ROUTERS

    paths = {route.path for router in ROUTERS for route in router.routes}
    assert {"/", "/evidence", "/papers/{paper_id:path}"} <= paths
    text = (ROOT / "docs" / "hub" / "page.md").read_text()
    assert {path for path in paths if f"`{path}`" not in text} == set()


def test_the_readmes_table_is_todays():
    readme = ROOT / "README.md"
    assert readme.read_text() == generate().fill_readme(readme), "run: python docs/generate.py"


def test_method_pages_are_written_for_all_cards(tmp_path):
    folder = tmp_path / "methods"
    generate().method_pages(folder)
    assert {path.stem for path in folder.glob("*.md")} == {"index", *library.slugs()}
    for card in library.cards():
        text = (folder / f"{card.slug}.md").read_text()
        assert all(claim.text in text for claim in card.claims)


def test_links_between_documents_lead_somewhere():
    for path in [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize("word", ["/work/", "/root/", "/opt/"])
def test_nothing_names_a_machine(word):
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")]:
        assert word not in path.read_text(), path
