"""Checks are run, judged and written; folders are scaffolded and pass the rules they can."""

import dataclasses
import importlib
import subprocess
import sys

import pytest
from PIL import Image

import workingpapers.papers
from workingpapers.bench import battery, costing, pictures, run
from workingpapers.cli.scaffold import scaffold
from workingpapers.core import library


@pytest.fixture
def papers(tmp_path, monkeypatch):
    """A folder of folders that Python takes for part of workingpapers.papers."""
    monkeypatch.setattr(
        workingpapers.papers, "__path__", [*workingpapers.papers.__path__, str(tmp_path)]
    )
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("workingpapers.papers.frobnicator")]:
        del sys.modules[name]


@pytest.fixture
def card(papers):
    scaffold("frobnicator", "2611.01234", "On Nothing", papers)
    return library.card("frobnicator", papers)


def check_of(source):
    module = importlib.import_module("workingpapers.papers.frobnicator.check")
    exec(source, vars(module))


def test_a_scaffold_passes_all_but_what_has_to_be_filled_in(card, papers):
    """What `papers new` promises."""
    wrong = {rule.__name__: rule("frobnicator", papers) for rule in battery.RULES}
    assert {name for name, lines in wrong.items() if lines} == {"files", "card", "evidence"}
    assert wrong["files"] == ["evidence.json is missing"]
    assert wrong["card"] == ["card.toml: 'fill in' stands where something has to be filled in"]
    assert wrong["evidence"] == ["headline: no evidence; run `papers check frobnicator`"]


def test_a_scaffolds_own_tests_and_style_pass(card, papers):
    ruff = [sys.executable, "-m", "ruff", "check", "--config", "pyproject.toml", str(papers)]
    done = subprocess.run(ruff, capture_output=True, text=True, check=False, cwd=library.checkout())
    assert done.returncode == 0, done.stdout
    module = importlib.import_module("workingpapers.papers.frobnicator.test_method")
    module.test_worked_by_hand()
    module.test_errors_name_the_cause()


@pytest.mark.parametrize(
    ("slug", "paper", "message"),
    [
        ("Frob", "2611.01234", "slug: expected a lower-case Python name, got 'Frob'"),
        ("frob", "26.1", r"paper: expected an arXiv id such as 2611.01234, got '26.1'"),
        ("frobnicator", "2611.01234", "frobnicator exists already"),
    ],
)
def test_a_wrong_scaffold_is_refused(card, papers, slug, paper, message):
    with pytest.raises(ValueError, match=message):
        scaffold(slug, paper, "x", papers)


def test_a_run_covers_every_seed_twice_and_carries_its_circumstances(card, papers):
    seen = []
    evidence = run.run(card, card.claims[0], on_seed=seen.append, papers=papers)
    assert [m.seed for m in evidence.runs] == [m.seed for m in evidence.ablated] == [0, 1, 2, 3, 4]
    assert [pair[0] for pair in seen] == list(evidence.runs)
    assert evidence.sources == library.digest("frobnicator", papers)
    assert {"python", "torch", "processor", "threads"} <= set(evidence.environment)
    assert evidence.environment["processor"]


def test_recorded_evidence_replaces_its_predecessor_alone(card, papers):
    evidence = run.run(card, card.claims[0], papers=papers)
    long = dataclasses.replace(evidence, protocol="long")
    run.record("frobnicator", long, papers)
    path = run.record("frobnicator", evidence, papers)
    run.record("frobnicator", dataclasses.replace(evidence, seconds=7.0), papers)
    held = library.evidence("frobnicator", papers)
    assert [(e.protocol, e.seconds) for e in held] == [("standard", 7.0), ("long", long.seconds)]
    assert path == papers / "frobnicator" / "evidence.json"
    assert battery.evidence("frobnicator", papers) == []


def test_an_interrupted_check_leaves_the_old_evidence(card, papers):
    path = run.record("frobnicator", run.run(card, card.claims[0], papers=papers), papers)
    before = path.read_bytes()

    def stop(pair):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(card, card.claims[0], on_seed=stop, papers=papers)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.glob("*.part")] == []


def test_what_cannot_be_run_is_told(card, papers):
    with pytest.raises(ValueError, match="seeds and jobs must be positive, got 0 and 1"):
        run.run(card, card.claims[0], seeds=0, papers=papers)
    with pytest.raises(
        ValueError, match="frobnicator has no longer check for the claim 'headline'"
    ):
        run.run(card, card.claims[0], long=True, papers=papers)


@pytest.mark.slow
def test_processes_and_ray_measure_what_one_process_measures():
    """On a real folder: other processes find no folder of a test's own."""
    card = library.card("attsets")
    claim = card.claim("pooling")
    alone = run.run(card, claim, seeds=2)
    spread = run.run(card, claim, seeds=2, jobs=2)
    cluster = run.run(card, claim, seeds=2, on="ray")
    for other in (spread, cluster):
        assert [m.seed for m in other.runs] == [0, 1]
        for one, two in zip(alone.runs, other.runs, strict=True):
            assert two.baseline == pytest.approx(one.baseline, rel=0.05)


def break_card(folder, old, new):
    path = folder / "card.toml"
    path.write_text(path.read_text().replace(old, new))


def test_every_rule_can_fail(card, papers):
    """Each rule sees the fault that it is there for."""
    folder = papers / "frobnicator"
    (folder / "notes.txt").write_text("x")
    assert "notes.txt does not belong here" in battery.files("frobnicator", papers)
    (folder / "parity.py").write_text("")
    assert "golden.safetensors and parity.py come together" in battery.files("frobnicator", papers)
    break_card(folder, 'exports = ["identity"]', 'exports = ["identity", "other"]')
    assert "other is not there" in battery.exports("frobnicator", papers)
    break_card(folder, 'key = "headline"', 'key = "elsewhere"')
    assert battery.checks("frobnicator", papers) == [
        "CHECKS has ['headline'], the card claims ['elsewhere']"
    ]
    break_card(folder, "print(identity", "print(missing")
    with pytest.raises(NameError, match="missing"):
        battery.snippet("frobnicator", papers)
    (folder / "__init__.py").write_text("import torch\ntorch.manual_seed(1)\n")
    (complaint,) = battery.imports("frobnicator", papers)
    assert complaint.startswith("import changes global state")
    (folder / "__init__.py").write_text("import sklearn\n")
    assert "import loads sklearn" in battery.imports("frobnicator", papers)
    (folder / "__init__.py").write_text("1/0\n")
    (complaint,) = battery.imports("frobnicator", papers)
    assert complaint.endswith("ZeroDivisionError: division by zero")


def test_undocumented_exports_are_seen(papers, card):
    module = importlib.import_module("workingpapers.papers.frobnicator")
    module.identity.__doc__ = None
    assert battery.exports("frobnicator", papers) == [
        "identity has no docstring",
        "identity: its docstring has no 'Shapes:'",
    ]


def test_wrong_answers_are_seen_by_parity(papers, card):
    import json

    import torch
    from safetensors.torch import save_file

    folder = papers / "frobnicator"
    tensors = {"input/x": torch.ones(2), "output/y": torch.ones(2), "mid/z": torch.ones(3)}
    save_file(tensors, folder / "golden.safetensors", {"config": json.dumps({"factor": 1.5})})
    (folder / "parity.py").write_text(
        "from workingpapers.kit.golden import answers\n"
        "def run(config, state, inputs):\n"
        "    return answers({'y': inputs['x'] * config['factor']})\n"
    )
    text = (folder / "card.toml").read_text()
    table = '[parity]\n"output/*" = [1e-5, 0.0]\n"mid/*" = [1e-5, 0.0]\n\n[[claims]]'
    (folder / "card.toml").write_text(text.replace("[[claims]]", table))
    assert sorted(battery.parity("frobnicator", papers)) == [
        "mid/z: not answered",
        "output/y: off by 5.00e-01, allowed 1.00e-05",
    ]
    break_card(folder, "1e-5, 0.0", "1e-5, 0.6")
    break_card(folder, '"mid/*" = [1e-5, 0.6]', "")
    assert battery.parity("frobnicator", papers) == [
        "mid/z: the card's parity table has no tolerance for it"
    ]


BENCH = """
def pixels(report):
    report("32")
    return [{"side": 32, "seconds": 0.123456}, {"side": 64, "seconds": 2.0}]


BENCHES = {"pixels": pixels}
"""


def test_what_a_method_costs_is_written_down_with_its_circumstances(card, papers):
    (papers / "frobnicator" / "bench.py").write_text(BENCH)
    told = []
    costs = costing.measure("frobnicator", told.append, papers)
    assert told == ["pixels", "pixels: 32"]
    [table] = costs.tables
    assert (table.columns, table.rows) == (("side", "seconds"), (("32", "0.1235"), ("64", "2")))
    assert costs.environment["torch"]
    assert library.costs("frobnicator", papers) == costs
    assert costs.sources == library.costs_digest("frobnicator", papers)
    (papers / "frobnicator" / "bench.py").write_text(BENCH.replace("2.0", "3.0"))
    assert costs.sources != library.costs_digest("frobnicator", papers)


PICTURES = """
import torch

from workingpapers.kit.strip import Strip


def before_and_after(report):
    report("painting")
    return Strip({"before": torch.zeros(3, 4, 5), "after": torch.ones(3, 4, 6)}, "Brighter.")


PICTURES = {"lamp": before_and_after}
"""


def test_pictures_are_drawn_and_a_change_of_their_code_is_seen(card, papers):
    folder = papers / "frobnicator"
    (folder / "pictures.py").write_text(PICTURES)
    [picture] = pictures.make("frobnicator", lambda line: None, papers)
    assert (picture.name, picture.panels) == ("lamp.webp", ("before", "after"))
    with Image.open(folder / "pictures" / "lamp.webp") as image:
        assert image.size == (picture.width, picture.height) == (15, 4)
        assert image.convert("RGB").getpixel((0, 0)) == (0, 0, 0)
        assert image.convert("RGB").getpixel((14, 3)) == (255, 255, 255)
    assert library.pictures("frobnicator", papers) == (picture,)
    assert battery.pictures("frobnicator", papers) == []
    (folder / "pictures" / "stray.webp").touch()
    (folder / "pictures.py").write_text(PICTURES.replace("zeros", "ones"))
    assert battery.pictures("frobnicator", papers) == [
        "lamp.webp: made by other code; run `papers pictures frobnicator`",
        "pictures/stray.webp: listed and missing, or not listed",
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [(costing.measure, "has no benchmark"), (pictures.make, "has no pictures")],
)
def test_a_folder_without_recipes_is_told(card, papers, make, message):
    with pytest.raises(ValueError, match=message):
        make("frobnicator", lambda line: None, papers)
