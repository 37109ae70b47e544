"""Cards and evidence as the hub reads them."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import count

import pytest

from workingpapers.core import library
from workingpapers.core.codec import write_costs
from workingpapers.core.types import Costs, CostTable
from workingpapers.hub.entries import Shelf


@pytest.fixture
def papers(tmp_path):
    shutil.copytree(
        library.PAPERS / "neuro_hebbian",
        tmp_path / "neuro_hebbian",
        ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"),
    )
    return tmp_path


def test_a_card_that_cannot_be_read_is_left_out_and_logged(papers, caplog):
    broken = papers / "broken"
    broken.mkdir()
    (broken / "card.toml").write_text("paper = 7")
    assert set(Shelf(papers).by_paper()) == {"arxiv:2303.00914"}
    assert "the card of broken is left out" in caplog.text and "card.toml" in caplog.text


def test_a_changed_card_is_read_again_within_a_second(papers, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("workingpapers.hub.entries.time.monotonic", lambda: clock[0])
    shelf = Shelf(papers)
    first = shelf.by_paper()["arxiv:2303.00914"][0]
    path = papers / "neuro_hebbian" / "card.toml"
    path.write_text(path.read_text().replace(first.title, "Another title"))
    assert shelf.by_paper()["arxiv:2303.00914"][0].title == first.title
    clock[0] = 1.5
    assert shelf.by_paper()["arxiv:2303.00914"][0].title == "Another title"


def test_threads_may_share_a_shelf_and_have_their_own(papers):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: set(Shelf(papers).by_paper()), range(24)))
    assert all(names == {"arxiv:2303.00914"} for names in found)


def test_pictures_are_those_that_a_method_lists_and_no_other_files(papers):
    folder = papers / "neuro_hebbian"
    (folder / "pictures").mkdir()
    (folder / "pictures" / "seen.webp").write_bytes(b"picture")
    (folder / "pictures" / "hidden.webp").write_bytes(b"hidden")
    listed = {"name": "seen.webp", "panels": ["before", "after"], "caption": "What it does."}
    listed |= {"width": 8, "height": 4, "sources": "x", "recorded": "2026-11-24"}
    known = folder / "pictures" / "pictures.json"
    known.write_text(json.dumps({"pictures": [listed]}))
    shelf = Shelf(papers)
    assert [picture.panels for picture in shelf.pictures("neuro_hebbian")] == [("before", "after")]
    assert shelf.picture("neuro_hebbian", "seen.webp") == b"picture"
    for slug, name in (
        ("neuro_hebbian", "hidden.webp"),
        ("neuro_hebbian", "../card.toml"),
        ("./neuro_hebbian", "seen.webp"),
        ("hydra", "seen.webp"),
    ):
        assert shelf.picture(slug, name) is None
    known.write_text("{")
    assert shelf.pictures("neuro_hebbian") == ()


def test_costs_say_whether_they_are_of_the_code_of_today(papers, monkeypatch):
    seconds = count(step=2.0)  # the files are looked at once a second
    monkeypatch.setattr("workingpapers.hub.entries.time.monotonic", lambda: next(seconds))
    folder = papers / "neuro_hebbian"
    shelf = Shelf(papers)
    (folder / "costs.json").unlink(missing_ok=True)
    assert shelf.costs("neuro_hebbian") == (None, False)
    table = CostTable("size", ("network", "ms"), (("ours", "1.5"), ("plain", "2")))
    now = library.costs_digest("neuro_hebbian", papers)
    for sources, stale in ((now, False), ("other", True)):
        costs = Costs((table,), sources, date(2026, 11, 24), {"torch": "2.13.0"})
        write_costs(folder / "costs.json", costs)
        assert shelf.costs("neuro_hebbian") == (costs, stale)
    (folder / "costs.json").write_text("[]")
    assert shelf.costs("neuro_hebbian") == (None, False)


def test_costs_are_read_once_for_as_long_as_the_files_stay(papers, monkeypatch):
    shelf, read = Shelf(papers), []
    monkeypatch.setattr(library, "costs", lambda slug, papers: read.append(slug))
    for _ in range(3):
        assert shelf.costs("neuro_hebbian") == (None, False)
    assert read == ["neuro_hebbian"]
