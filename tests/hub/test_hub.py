"""The hub as pages and commands use it."""

import dataclasses
import json
import subprocess
import sys
from datetime import date

import pytest

from workingpapers.hub.entries import Shelf
from workingpapers.hub.feeds.remote import Answer, RemoteError
from workingpapers.hub.hub import Hub

DAY = date(2025, 12, 31)


def ids(entries):
    return [entry.paper.id for entry in entries]


@pytest.fixture
def filled(hub):
    hub.fill()
    return hub


def test_filling_loads_the_bundled_edition_once(hub):
    steps = []
    report = hub.fill(lambda *step: steps.append(step))
    assert (report.new, report.changed, report.same, report.rejected) == (39, 0, 0, ())
    assert steps == [(39, 39)]
    again = hub.fill()
    assert (again.new, again.changed, again.same) == (0, 0, 39)
    assert hub.editions() == [DAY]
    assert len(hub.edition(DAY)) == 39


def test_an_edition_is_cut_into_pages_in_its_own_order(filled):
    whole = ids(filled.edition(DAY))
    assert whole[0] == "arxiv:2405.18711" and whole[-1] == "arxiv:2409.15371"
    assert ids(filled.edition(DAY, 10, 5)) == whole[5:15]
    assert ids(filled.edition(DAY, offset=35)) == whole[35:]
    assert filled.edition(date(2025, 12, 30)) == ()


@pytest.mark.parametrize(
    "name",
    [
        "arxiv:1808.00758",
        "1808.00758",
        "1808.00758v2",
        "arXiv:1808.00758v1",
        "https://arxiv.org/abs/1808.00758",
        "hf.co/papers/1808.00758",
    ],
)
def test_a_paper_answers_to_every_form_of_its_id(filled, name):
    assert filled.entry(name).paper.id == "arxiv:1808.00758"


def test_old_ids_and_unknown_ones(hub, new_paper):
    hub.add([new_paper("hep-th/9901001")])
    assert hub.entry("hep-th/9901001v3").paper.id == "arxiv:hep-th/9901001"
    for name in ("9901001", "arxiv:1808.00758", "", "nonsense", "\ud800", "'; DROP TABLE papers"):
        assert hub.entry(name) is None
    assert ids(hub.entries(["x", "hep-th/9901001", "y"])) == ["arxiv:hep-th/9901001"]


def test_papers_are_listed_newest_first_and_filtered(hub, new_paper):
    hub.add([
        new_paper("2401.00001", published=date(2024, 1, 1), authors=("Bernhard Schölkopf",)),
        new_paper("2402.00001", published=date(2024, 2, 1), organization="Tea Lab",
                  organization_slug="tealab"),
        new_paper("2403.00001", published=date(2024, 3, 1)),
    ])  # fmt: skip
    assert ids(hub.papers().entries) == [f"arxiv:240{n}.00001" for n in (3, 2, 1)]
    page = hub.papers(limit=1, offset=1)
    assert (ids(page.entries), page.total) == (["arxiv:2402.00001"], 3)
    assert ids(hub.papers(author="bernhard SCHOLKOPF").entries) == ["arxiv:2401.00001"]
    assert hub.papers(author="Bernhard").total == 0
    for name in ("tealab", "Tea Lab", "TEA LAB"):
        assert ids(hub.papers(organization=name).entries) == ["arxiv:2402.00001"]
    between = hub.papers(since=date(2024, 2, 1), until=date(2024, 2, 29))
    assert ids(between.entries) == ["arxiv:2402.00001"]
    assert hub.papers(since=date(2025, 1, 1)).entries == ()


def test_a_saved_page_is_matched_with_what_is_bundled(filled, made, page, tmp_path):
    """The page gives titles; the bundled papers have numbers."""
    known = [
        dataclasses.replace(entry.paper, abstract="x") for entry in filled.edition(DAY, limit=6)
    ]
    titled = tuple(
        dataclasses.replace(item, title=paper.title.upper())
        for item, paper in zip(made, known, strict=True)
    )
    path = tmp_path / "page.txt"
    path.write_text(page(titled), encoding="utf-16")
    report = filled.load(str(path))
    assert (report.new, report.changed, report.same, report.rejected) == (0, 6, 0, ())
    assert (report.format, report.edition) == ("saved page (text)", DAY)
    again = filled.load(str(path))
    assert (again.new, again.changed, again.same) == (0, 0, 6)
    entry = filled.entry(known[2].id)
    assert entry.paper.abstract == made[2].abstract
    assert entry.paper.summary == known[2].summary
    assert entry.comments == 5
    assert len(filled.edition(DAY)) == 39
    # The bundled words do not come back over the page's own.
    assert filled.fill().changed == 0
    assert filled.entry(known[2].id).paper.abstract == made[2].abstract


def test_a_page_of_unknown_papers_makes_an_edition_of_its_own(hub, page, made, tmp_path):
    path = tmp_path / "page.txt"
    path.write_text(page())
    report = hub.load(str(path), year=2031)
    assert (report.new, report.edition) == (6, date(2031, 12, 31))
    assert [entry.paper.title for entry in hub.edition(date(2031, 12, 31))] == [
        paper.title for paper in made
    ]
    assert hub.search("kettlenet").entries[0].paper.id == "title:kettlenet"


def test_bad_records_are_named_and_good_ones_go_in(hub, page, tmp_path):
    path = tmp_path / "page.txt"
    path.write_text(page()[:-20])
    report = hub.load(str(path))
    assert (report.new, len(report.rejected)) == (5, 1)
    assert "the page ends inside this paper" in str(report.rejected[0])


def test_an_address_is_fetched_and_read(hub, monkeypatch):
    asked = []
    entry = {"id": "2605.13301", "title": "Teapots", "publishedAt": "2026-05-14T00:00:00.000Z"}
    atom = (
        "<feed xmlns='http://www.w3.org/2005/Atom'><entry><id>http://arxiv.org/abs/2605.13301v1"
        "</id><title>Teapots</title><published>2026-05-14</published></entry></feed>"
    )

    def ask(address, **limits):
        asked.append(address)
        return Answer(json.dumps(entry).encode() if "huggingface" in address else atom.encode())

    monkeypatch.setattr(hub.sources.web, "ask", ask)
    assert hub.load("https://huggingface.co/papers/2605.13301").new == 1
    assert hub.load("2605.13301v1").same == 1
    several = hub.load("2605.13301, hep-th/9901001")
    assert (several.read, len(several.rejected)) == (1, 1)
    assert asked[0] == "https://huggingface.co/api/papers/2605.13301"
    assert asked[2].endswith("id_list=2605.13301,hep-th/9901001&max_results=2")


def test_what_cannot_be_loaded_is_explained(hub, tmp_path):
    with pytest.raises(FileNotFoundError):
        hub.load(str(tmp_path / "nothing.txt"))
    with pytest.raises(RemoteError, match="only https"):
        hub.load("http://example.org/feed")


def test_the_board_holds_the_papers_that_have_a_card(settings, hashing, tmp_path):
    folder = tmp_path / "papers" / "lids"
    folder.mkdir(parents=True)
    (folder / "check.py").write_text("CHECKS = {}\n")
    (folder / "card.toml").write_text(
        """
paper = "arxiv:1808.00758"
title = "Teapots"
fields = ["tea"]
exports = ["Lid"]
source = "none"
departures = []
limits = []
snippet = "Lid()"
[[claims]]
key = "rest"
text = "A lid at rest stays at rest."
where = "table 1"
reported = "always"
metric = "share of lids"
better = "higher"
unit = "difference"
margin = 0.1
scale = "toy"
"""
    )
    with Hub.open(settings, Shelf(tmp_path / "papers"), lambda: hashing) as hub:
        hub.fill()
        (entry,) = hub.board()
        assert entry.paper.id == "arxiv:1808.00758"
        assert entry.card.slug == "lids"
        assert entry.verdicts == {"rest": None}
        assert hub.entry("1808.00758").card == entry.card
        assert hub.entry("2405.18711").card is None


def test_the_hub_loads_no_torch_and_no_web():
    """And nothing that is heavy before it is asked for."""
    program = (
        "import sys, workingpapers.hub.hub\n"
        "heavy = ('torch', 'onnxruntime', 'usearch', 'tokenizers', 'httpx', 'bs4', 'lxml',"
        " 'pylatexenc', 'starlette', 'fastapi', 'transformers')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
