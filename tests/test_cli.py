"""The command line, as a user meets it."""

import json
import shutil
import subprocess
import sys
from datetime import date

import pytest
from typer.testing import CliRunner

from workingpapers.bench import run
from workingpapers.cli import app, console
from workingpapers.core import library
from workingpapers.core.types import Evidence, Measurement


@pytest.fixture
def papers(tmp_path, monkeypatch):
    """Run `papers` with a home of its own; returns a function of the arguments."""
    monkeypatch.setenv("WORKINGPAPERS_HOME", str(tmp_path / "home"))
    # Set for good where COLUMNS is set when the console is made, as it is in xdist's workers.
    monkeypatch.setattr(console.out, "width", 200)

    def call(*arguments, status=0):
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == status, result.output + str(result.exception)
        return result

    return call


def program(*arguments, home):
    """The installed script, for what only `main` does."""
    script = shutil.which("papers", path=str(__import__("pathlib").Path(sys.executable).parent))
    return subprocess.run(
        [script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"WORKINGPAPERS_HOME": str(home), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
    )


def page(*titles):
    """A saved page in the shape of the real one, with papers of our own."""
    cards = [
        f"{title}\n\nWe study {title.lower()} and find it useful.\n\n  • 3 authors\n·\nMay 2 4\n"
        for title in titles
    ]
    return "Daily Papers\n\nbyAK and the research community\n\nDec 31\n\n" + "\n".join(cards)


def test_list_and_show_name_what_is_there(papers):
    listed = json.loads(papers("list", "--json").stdout)
    assert [line["slug"] for line in listed] == library.slugs()
    shown = papers("show", "attsets").stdout
    card = library.card("attsets")
    assert card.title in shown and all(claim.key in shown for claim in card.claims)
    whole = json.loads(papers("show", "attsets", "--json").stdout)
    assert [s["claim"] for s in whole["standings"]] == [claim.key for claim in card.claims]


def test_search_answers_by_meaning(papers):
    found = json.loads(papers("search", "drop tokens to speed up ViT", "--json").stdout)
    assert found["meaning"] is True
    assert found["entries"][0]["id"] == "arxiv:2202.07800"
    assert found["entries"][0]["slug"] == "evit"
    assert "Not All Patches" in papers("search", "drop", "tokens").stdout


def test_search_without_an_encoder_says_so(papers, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKINGPAPERS_ENCODER", str(tmp_path / "nowhere"))
    found = json.loads(papers("search", "vision transformers", "--json").stdout)
    assert found["meaning"] is False and found["note"]
    assert found["entries"]


def test_the_index_can_be_made_anew(papers, tmp_path):
    papers("search", "attention")
    for file in (tmp_path / "home" / "index").rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    assert "indexed" in papers("index", "rebuild").stdout
    found = json.loads(papers("search", "drop tokens to speed up ViT", "--json").stdout)
    assert found["meaning"] is True and found["entries"][0]["id"] == "arxiv:2202.07800"


def test_import_reports_and_doing_it_again_changes_nothing(papers, tmp_path):
    file = tmp_path / "page.txt"
    file.write_text(page("On Gardening Networks", "Slow Attention Is Enough"))
    first = json.loads(papers("import", str(file), "--year", "2025", "--json").stdout)[str(file)]
    assert (first["new"], first["same"], first["rejected"]) == (2, 0, [])
    again = papers("import", str(file), "--year", "2025").stdout
    assert "2 papers (0 new, 0 changed, 2 known)" in again
    found = json.loads(papers("search", "gardening networks", "--json").stdout)
    assert found["entries"][0]["title"] == "On Gardening Networks"


def test_a_bad_record_is_named_and_the_good_ones_are_in(papers, tmp_path):
    file = tmp_path / "feed.json"
    good = {"paper": {"id": "2611.00001", "title": "Good", "summary": "Fine.", "authors": []}}
    good["paper"]["publishedAt"] = good["publishedAt"] = "2026-11-01T00:00:00.000Z"
    file.write_text(json.dumps([good, {"paper": {"id": "2611.00002"}}]))
    result = papers("import", str(file), status=1)
    assert "1 papers (1 new" in result.stdout
    assert "error:" in result.stderr and str(file) in result.stderr.replace("\n", "")


def test_sources_are_kept_read_and_forgotten(papers, monkeypatch):
    from workingpapers.hub.feeds import remote

    asked = []

    def ask(web, address, **more):
        asked.append(address)
        if "example.org" in address:
            raise remote.RemoteError("example.org answered 404")
        return remote.Answer(b"@misc{a, title={Kettlenet}, year=2018}\n@misc{b, title={Lids}}\n")

    monkeypatch.setattr(remote.Web, "ask", ask)
    assert "no sources" in papers("sync").stdout
    assert (
        "1: feed https://tea.example/a.bib, every 12 h"
        in papers("sync", "add", "feed", "https://tea.example/a.bib", "--every", "12h").stdout
    )
    papers("sync", "add", "feed", "https://example.org/b.bib")
    made = papers("sync", "add", "oai", "cs:cs:LG", "--since", "2026-01-01", "--json").stdout
    assert json.loads(made)["options"] == {"since": "2026-01-01"}
    assert "forgotten: 3" in papers("sync", "remove", "3").stdout
    told = papers("sync", status=1)
    assert "feed https://tea.example/a.bib: 1 new, 0 changed, 0 known, 1 bad" in told.stdout
    assert "line 2, b: year: expected one such as 2018" in told.stderr
    assert "example.org answered 404" in told.stderr
    found = json.loads(papers("search", "kettlenet", "--json").stdout)["entries"]
    assert found[0]["id"] == "title:kettlenet"
    assert "nothing is due" in papers("sync").stdout
    first, second = json.loads(papers("sync", "list", "--json").stdout)
    assert (first["new"], first["error"], second["error"]) == (1, "", "example.org answered 404")
    listed = papers("sync", "list").stdout
    assert "1 new, 0 changed, 0 known, 1 bad" in listed and "every 12 h" in listed
    assert len(json.loads(papers("sync", "--all", "--json", status=1).stdout)) == 2
    assert len(asked) == 4


def test_mistakes_are_told_in_one_line(tmp_path):
    for arguments, words in [
        (["show", "evitt"], "no paper 'evitt'; there is evit"),
        (["check"], "name the papers to check, or say --all"),
        (["check", "evit", "--on", "spark"], "--on: expected ray or ray://host:port"),
        (["check", "attsets", "--claim", "x"], "attsets has no claim 'x'"),
        (["bench", "nobody"], "no paper 'nobody'; there is"),
        (["import", "nowhere.txt"], "nowhere.txt"),
        (["import", "x.txt", "--edition", "31.12."], "expected a day such as 2025-12-31"),
        (["sync", "add", "gopher", "x"], "no kind of source 'gopher'; there is arxiv, feed"),
        (["sync", "add", "oai", "cs", "--every", "often"], "--every: expected a time such as 30m"),
        (["sync", "remove", "7"], "no source 7"),
        (["data", "get", "cifar"], "no data set 'cifar'; there is"),
        (["new", "Evit", "2202.07800"], "slug: expected a lower-case Python name"),
    ]:
        done = program(*arguments, home=tmp_path)
        assert done.returncode == 1, done
        told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(told) == 1 and words in told[0], done.stderr
        assert "Traceback" not in done.stderr


def test_data_sets_are_listed_with_size_and_licence(papers):
    known = json.loads(papers("data", "list", "--json").stdout)
    names = {item["name"] for item in known}
    assert {"fashion_mnist", "mnist", "minilm", "smollm2", "rated_sentences"} <= names
    assert all(item["licence"] and item["megabytes"] > 0 for item in known)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A check that takes no time, and a place for its evidence."""
    written = {}

    def quick(card, claim, *, seeds=None, on_seed, **rest):
        count = claim.seeds if seeds is None else seeds
        ahead = 1 + 2 * abs(claim.margin) if claim.better == "higher" else 0.5
        runs = tuple(Measurement(seed, ahead, 1.0) for seed in range(count))
        twins = tuple(Measurement(seed, 1.0, 1.0) for seed in range(count))
        for pair in zip(runs, twins, strict=True):
            on_seed(pair)
        digest = library.digest(card.slug)
        return Evidence(claim.key, runs, twins, 1.5, digest, date(2026, 1, 2), {"python": "3"})

    def record(slug, evidence):
        written[slug, evidence.claim] = evidence
        return tmp_path / "evidence.json"

    monkeypatch.setattr(run, "run", quick)
    monkeypatch.setattr(run, "record", record)
    return written


def test_check_prints_both_figures_draws_the_seeds_and_writes(papers, measured, tmp_path):
    card = library.card("attsets")
    claim = card.claims[0]
    result = papers("check", "attsets", "--claim", claim.key)
    assert claim.reported in result.stdout and claim.metric in result.stdout
    assert set(measured) == {("attsets", claim.key)}
    figure = tmp_path / "home" / "figures" / f"attsets-{claim.key}.svg"
    assert figure.read_text().startswith("<svg")


def test_check_with_too_few_seeds_prints_and_keeps_the_old(papers, measured):
    card = library.card("attsets")
    result = papers("check", "attsets", "--claim", card.claims[0].key, "--seeds", "1")
    assert f"not written: the card asks for {card.claims[0].seeds} seeds" in result.stdout
    assert measured == {}


def test_check_all_covers_every_claim_of_every_paper(papers, measured):
    told = json.loads(papers("check", "--all", "--json").stdout)
    expected = [(c.slug, claim.key) for c in library.cards() for claim in c.claims]
    assert [(line["paper"], line["claim"]) for line in told] == expected


def test_check_stale_measures_what_has_no_verdict(papers, measured):
    told = json.loads(papers("check", "--all", "--stale", "--json").stdout)
    held = {(c.slug, k): v for c in library.cards() for k, v in library.verdicts(c).items()}
    assert {(line["paper"], line["claim"]) for line in told} == {
        k for k, v in held.items() if not v
    }


@pytest.fixture
def trained(tmp_path):
    """A small HOGformer in a file; its output is its input, since its last layer is zero."""
    import torch

    from workingpapers.papers.hogformer import HOGformer, save

    model = HOGformer(8, (1, 1, 1, 1), 1, (1, 1, 2, 2), ffn_expansion_factor=2)
    torch.nn.init.zeros_(model.output.weight)
    save(model, tmp_path / "trained.safetensors")
    return tmp_path / "trained.safetensors"


def test_a_picture_is_restored_in_tiles_and_keeps_its_size_and_transparency(
    papers, tmp_path, trained
):
    import numpy as np
    from PIL import Image

    pixels = np.arange(70 * 90 * 4, dtype=np.uint32).reshape(70, 90, 4) % 251
    Image.fromarray(pixels.astype(np.uint8), "RGBA").save(tmp_path / "in.png")
    said = papers(
        "restore", "hogformer", str(tmp_path / "in.png"), str(tmp_path / "out.png"),
        "--state", str(trained), "--tile", "64", "--overlap", "16",
    )  # fmt: skip
    assert "restored" in said.output
    assert np.array_equal(np.array(Image.open(tmp_path / "out.png")), pixels)


def test_what_cannot_be_restored_is_told(papers, tmp_path, trained):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    picture, other = str(tmp_path / "in.png"), str(tmp_path / "out.png")
    for arguments, message in (
        (["hogformer", picture], "needs IN, OUT and --state"),
        (["hogformer", picture, picture, "--state", str(trained)], "another file than IN"),
        (["evit", picture, other, "--state", str(trained)], "evit restores no pictures"),
        (["hogformer", picture, other, "--state", "nowhere"], "there is no nowhere"),
        (["hogformer", picture, str(tmp_path / "x.npy"), "--state", str(trained)], "both be .npy"),
    ):
        assert message in str(papers("restore", *arguments, status=1).exception)
