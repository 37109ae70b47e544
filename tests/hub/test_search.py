"""What is found, and in which order."""

import dataclasses
from datetime import date

import pytest

from workingpapers.core.types import Paper
from workingpapers.hub.hub import Hub
from workingpapers.hub.search.encode import EncoderMissing
from workingpapers.hub.settings import Settings

EVIT, BACKPROP, FORWARD, COUNTER = "2202.07800", "2509.19063", "2403.11004", "2409.19841"
HEBBIAN, HOGFORMER, MOFME, MOSSFORMER = "2303.00914", "2504.09377", "2312.16610", "2312.11825"
BONE, LORA_MIXER, HYDRA, DYNAMIC_LRP = "2409.15371", "2507.00029", "2309.06922", "2512.07010"


@pytest.fixture(scope="module")
def bundled(tmp_path_factory, module_database, bare):
    """The bundled edition with the bundled encoder."""
    home = tmp_path_factory.mktemp("bundled")
    with Hub.open(Settings(home, module_database()), bare) as hub:
        hub.fill()
        yield hub


def ids(entries):
    return [entry.paper.id.removeprefix("arxiv:") for entry in entries]


def first(hub, query, count=3):
    results = hub.search(query)
    assert results.meaning and results.note == ""
    return ids(results.entries)[:count]


def test_finds_token_dropping(bundled):
    assert first(bundled, "make vision transformers faster by dropping tokens")[0] == EVIT


def test_finds_training_without_backpropagation(bundled):
    found = first(bundled, "train networks without backpropagation")
    assert set(found) <= {BACKPROP, FORWARD, COUNTER, HEBBIAN}


def test_finds_deraining(bundled):
    assert first(bundled, "remove rain and snow from photographs", 2) == [HOGFORMER, MOFME]


def test_finds_speech_separation(bundled):
    assert first(bundled, "find the speech of two people talking at once")[0] == MOSSFORMER


def test_finds_parameter_efficient_tuning(bundled):
    found = first(bundled, "fine-tune large language models cheaply")
    assert found[0] == BONE and set(found) == {BONE, LORA_MIXER, HYDRA}


def test_finds_attribution(bundled):
    assert first(bundled, "explain which input a prediction came from")[0] == DYNAMIC_LRP


def test_every_paper_is_found_by_its_title(bundled):
    for entry in bundled.edition(date(2025, 12, 31)):
        assert bundled.search(entry.paper.title, 1).entries[0].paper.id == entry.paper.id


def test_nothing_is_found_for_what_is_not_there(bundled):
    for query in ("xyzzy", "recipes for pasta with clams", "zebra", ""):
        assert bundled.search(query).total == 0


def test_pages_of_results_are_cut_from_one_ranking(bundled):
    whole = bundled.search("language models", limit=100)
    assert whole.total == len(whole.entries) > 10
    pages = [bundled.search("language models", 5, offset) for offset in range(0, whole.total, 5)]
    assert [e for page in pages for e in ids(page.entries)] == ids(whole.entries)
    assert {page.total for page in pages} == {whole.total}
    assert bundled.search("language models", 5, 1000).entries == ()


def test_similar_papers_are_of_a_kind(bundled):
    near = ids(bundled.similar("arxiv:2409.15371"))
    assert len(near) == 5 and BONE not in near and HYDRA in near
    assert ids(bundled.similar(f"https://arxiv.org/abs/{MOFME}v2", 3))[0] == HOGFORMER
    assert bundled.similar("arxiv:0704.0001") == ()


# With an encoder that knows words alone

TEA = {"authors": ("Ada Stone",), "published": date(2024, 1, 1), "url": ""}
PAPERS = [
    Paper("arxiv:2401.00001", "Teapots at rest", abstract="A long study of lids.", **TEA),
    Paper("arxiv:2401.00002", "Lids in motion", abstract="No teapots were harmed.", **TEA),
    Paper("arxiv:2401.00003", "The motion of kettles", abstract="They rest on hot lids.", **TEA),
    Paper(
        "arxiv:hep-th/9901001",
        r"Schr\"odinger's cup",
        authors=("Bernhard Schölkopf", "Łukasz Ó Briain"),
        abstract=r"At $\alpha > 5\%$ it is both full and empty.",
        published=date(1999, 1, 1),
        url="",
        organization="Tea Lab",
        organization_slug="tealab",
        fields=("quantum crockery",),
    ),
]


@pytest.fixture
def shop(hub):
    hub.add(PAPERS)
    return hub


def found(hub, query, **more):
    return [paper_id[-5:] for paper_id in ids(hub.search(query, **more).entries)]


@pytest.fixture
def by_words(settings, bare):
    def missing():
        raise EncoderMissing("install an encoder to search by meaning")

    with Hub.open(settings, bare, missing) as hub:
        hub.add(PAPERS)
        yield hub


def test_without_an_encoder_words_are_searched_and_the_reader_is_told(by_words):
    results = by_words.search("teapots")
    assert ids(results.entries) == ["2401.00001", "2401.00002"]  # the title counts for more
    assert not results.meaning
    assert results.note == ("Found by words alone: install an encoder to search by meaning.")
    assert ids(by_words.similar("arxiv:2401.00001"))[0] == "2401.00002"


def test_words_are_found_in_every_part_and_form(by_words):
    for query in (
        "Schölkopf", "scholkopf", "SCHOLKOPF", "lukasz", "o briain", "Schrodinger", "schrödinger's",
        "tealab", "tea lab", "crockery", "alpha", "emptiness",
    ):  # fmt: skip
        assert found(by_words, query)[:1] == ["01001"], query
    assert found(by_words, "kettle") == ["00003"]
    assert found(by_words, "studies") == ["00001"]


def test_phrases_must_stand_together(by_words, shop):
    for hub in (by_words, shop):
        assert found(hub, '"at rest"') == ["00001"]
        assert found(hub, '"rest at"') == []
        assert found(hub, 'motion "of kettles"') == ["00003"]
        assert found(hub, '"teapots at rest a long study"') == []  # runs from title into text
        assert found(hub, '"lids"')[:3] and "01001" not in found(hub, '"lids"')


def test_an_id_in_any_form_finds_its_paper(shop):
    for query in (
        "2401.00002", "arXiv:2401.00002v3", "https://arxiv.org/pdf/2401.00002", " 2401.00002 ",
    ):  # fmt: skip
        results = shop.search(query)
        assert (results.total, ids(results.entries)) == (1, ["2401.00002"])
    assert ids(shop.search("hep-th/9901001v2").entries) == ["hep-th/9901001"]
    assert shop.search("2401.00002", 5, 1).entries == ()


QUERIES = [
    "title:(teapots", "AND", "OR OR", "NOT teapots", '"unclosed', "teapots^2~", "[a TO b]", "*",
    "te?pot*", "+lids -rest", "\\", "a" * 5000, "\x00", "id:1", "/re[g/", "<b>", "🫖", "茶壶",
    "{!x}", "'; DROP TABLE papers; --", '""""', "\ud800", "lids " * 400,
]  # fmt: skip


def test_no_query_is_an_error(shop):
    for query in QUERIES:
        results = shop.search(query)
        assert results.query == query and results.total >= len(results.entries)


def test_a_changed_paper_is_found_under_its_new_words_alone(shop):
    shop.add([dataclasses.replace(PAPERS[0], title="Samovars at rest", abstract="Nothing else.")])
    assert found(shop, "samovar")[0] == "00001"
    assert "00001" not in found(shop, '"study of lids"')
    assert shop.search("samovar").note == ""


@pytest.mark.slow
def test_ten_thousand_papers_are_taken_in_and_found(hub, new_paper):
    def made():
        for number in range(10_000):
            yield new_paper(
                f"24{number // 5000 + 1:02d}.{number:05d}",
                f"Vessel number{number} of batch{number // 100}",
                abstract=f"It holds drink{number % 977} and weighs grams{number % 787}.",
                published=date(2024, 1, 1 + number % 28),
            )

    steps = []
    report = hub.add(made(), on_index=lambda done, total: steps.append((done, total)))
    assert (report.new, report.rejected) == (10_000, ())
    assert steps[-1] == (10_000, 10_000)
    assert ids(hub.search("number7531").entries)[0].endswith("07531")
    assert hub.search("batch42", limit=200).total >= 100
    assert hub.papers(limit=10, offset=5000).total == 10_000
    assert len(hub.similar("arxiv:2401.00042", 10)) == 10
