from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import bibtex
from workingpapers.hub.feeds.reading import read
from workingpapers.hub.feeds.records import Rejected


def records(text):
    return list(read(text.encode()).records)


def one(fields, kind="article"):
    (record,) = records(f"@{kind}{{key,\n{fields}\n}}")
    return record


def test_reads_an_entry_of_arxiv():
    text = r"""% my papers
    @misc{stone2018teapots,
      title={{T}eapots \& {\'e}tudes of size $L_{max} < 5$},
      author={Stone, Ada and Bernhard Sch{\"o}lkopf and {Lids and Spouts Consortium} and others},
      year={2018}, eprint={1808.00758v2}, archivePrefix={arXiv}, primaryClass={cs.CV},
      note={Code: https://github.com/tealab/lids},
      abstract={We weigh
        teapots.}
    }"""
    reading = read(text.encode())
    assert (reading.format, reading.yielding) == ("BibTeX", True)
    assert list(reading.records) == [
        Paper(
            id="arxiv:1808.00758",
            title="Teapots & études of size $L_{max} < 5$",
            authors=("Ada Stone", "Bernhard Schölkopf", "Lids and Spouts Consortium"),
            abstract="We weigh teapots.",
            published=date(2018, 8, 1),
            url="https://arxiv.org/abs/1808.00758",
            code="https://github.com/tealab/lids",
            fields=("cs.CV",),
        )
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("eprint={9901001}, archivePrefix={arXiv}, primaryClass={hep-th}", "arxiv:hep-th/9901001"),
        ("eprint={hep-th/9901001}, eprinttype={arxiv}", "arxiv:hep-th/9901001"),
        ("eprint={math.CA/0611800}", "arxiv:math/0611800"),
        ("journal={arXiv preprint arXiv:1808.00758}", "arxiv:1808.00758"),
        ("journal={CoRR}, volume={abs/1808.00758}, url={https://arxiv.org/abs/1808.00758}",
         "arxiv:1808.00758"),
        ("howpublished={\\url{https://arxiv.org/pdf/1808.00758v1.pdf}}", "arxiv:1808.00758"),
        ("doi={10.48550/arXiv.1808.00758}", "arxiv:1808.00758"),
        ("doi={https://doi.org/10.1145/3292500.X\\_1}", "doi:10.1145/3292500.x_1"),
        ("eprint={12345}, eprinttype={pubmed}", "title:teapots"),
        ("publisher={Tea Press}", "title:teapots"),
    ],
)  # fmt: skip
def test_finds_the_id_where_people_put_it(fields, expected):
    assert one(f"title={{Teapots}}, year={{2018}}, {fields}").id == expected


def test_a_paper_without_arxiv_leads_to_its_own_page():
    assert one("title={Tea}, year=2018, doi={10.1145/1}").url == "https://doi.org/10.1145/1"
    url = "https://tea.example/a?b=c"
    assert one(f"title={{Tea}}, year=2018, url={{{url}}}").url == url
    for bad in ("javascript:alert(1)", "https://tea.example/ x"):
        plain = one(f"title={{Tea}}, year=2018, url={{{bad}}}").url
        assert plain.startswith("https://arxiv.org/search/?query=Tea")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("year=2018, month=aug", date(2018, 8, 1)),
        ('year="2018", month="August"', date(2018, 8, 1)),
        ("year={2018}, month={8}", date(2018, 8, 1)),
        ("year={in press 2018}", date(2018, 1, 1)),
        ("date={2018-08-02}", date(2018, 8, 2)),
        ("date={2018-08}", date(2018, 8, 1)),
        ("date={2018-02-31}", date(2018, 1, 1)),
        ("eprint={1808.00758}", date(2018, 8, 1)),
        ("eprint={1808.00758}, year={2020}, month=mar", date(2020, 3, 1)),
    ],
)
def test_tells_the_day_as_far_as_the_entry_does(fields, expected):
    assert one(f"title={{Teapots}}, {fields}").published == expected


def test_bad_entries_are_named_and_good_ones_stay():
    text = """@article{a, title={Lids}, year=2018}

@article{b, title={Never closed, year=2018}

@article{c, title={Spouts}, year=2018}
@article{d, year=2018}
@article{e, title={Undated}}
@article{a, title={Same key}, year=2019}
@comment{nothing} @string{tea = "Tea"} @preamble{"x"}
@book{f, title=tea # { rooms}, editor={Stone, Ada}, year=1999}
@article{g, title={Cut sho"""
    found = records(text)
    assert [item.title for item in found if isinstance(item, Paper)][:3] == [
        "Lids",
        "Spouts",
        "Same key",
    ]
    assert [(item.place, item.reason) for item in found if isinstance(item, Rejected)] == [
        ("line 3", "not whole: '@article{b, title={Never closed, year=2018}'"),
        ("line 6, d", "title: it has none"),
        ("line 7, e", "year: expected one such as 2018, got 'nothing'"),
        ("line 11", "not whole: '@article{g, title={Cut sho'"),
    ]


def test_a_bibliography_fills_gaps_and_is_no_authority(hub, new_paper, tmp_path):
    known = new_paper("1808.00758", "Teapots at Rest", published=date(2018, 8, 2))
    hub.add([known])
    file = tmp_path / "papers.bib"
    file.write_text(
        "@misc{a, title={{TEAPOTS} at rest}, eprint={1808.00758}, year=2018}\n"
        "@article{b, title={Kettles without Number}, year=2017, author={Kettle, Bo}}\n"
    )
    report = hub.load(str(file))
    assert (report.new, report.same, report.format) == (1, 1, "BibTeX")
    assert hub.entry("1808.00758").paper == known
    assert hub.entry("title:kettles-without-number").paper.authors == ("Bo Kettle",)
    again = hub.load(str(file))
    assert (again.new, again.changed, again.same) == (0, 0, 2)


@pytest.mark.parametrize("codec", ["utf-16", "latin-1", "utf-8-sig"])
def test_any_encoding_is_read(codec):
    text = "@misc{a, title={Thé et café à l'été}, year=2018}".replace("\n", "\r\n")
    (paper,) = read(text.encode(codec)).records
    assert paper.title == "Thé et café à l'été"


WHOLE = "".join(f"@misc{{k{n}, title={{Tea {n}}}, year=201{n}}}\n" for n in range(3))


@given(st.integers(0, len(WHOLE)))
def test_no_cut_makes_it_raise_or_invent(cut):
    found = list(bibtex.read(WHOLE[:cut]).records)
    papers = [item for item in found if isinstance(item, Paper)]
    assert papers == list(bibtex.read(WHOLE).records)[: len(papers)]


@given(st.text(alphabet='@{}",=\\#%\n aé1$', max_size=60))
def test_nothing_makes_it_raise(text):
    for made in (text, "@a{" + text, "@a{k, title={" + text + "}, year=2018}"):
        for item in bibtex.read(made).records:
            assert isinstance(item, Paper | Rejected)


@pytest.mark.parametrize(
    "text",
    [
        "@article{a, title={" + "{" * 100_000,
        "@a{" * 20_000,
        "@article{a, " + "x=1, " * 20_000 + "}",
        "".join(f"@string{{s{n}=s{n - 1} # s{n - 1}}}\n" for n in range(1, 500))
        + "@misc{a, title=s499, year=2018}",
    ],
)
def test_hostile_nesting_takes_no_time(text):
    assert sum(len(str(item)) for item in bibtex.read(text).records) < 30 * len(text)


JOURNAL = "@article{{a, title={{Teapots at Rest}}, author={{{0}}}, year=2019, doi={{10.1145/7}}}}"


def test_a_journals_copy_of_a_paper_is_the_paper(hub, new_paper):
    hub.add([new_paper("1808.00758", "Teapots at Rest", authors=("A. Stone", "Bo Kettle"))])
    hub.take(read(JOURNAL.format("Stone, Ada").encode()))
    assert hub.papers().total == 1
    hub.take(read(JOURNAL.format("Spoon, Cy").encode()))  # somebody else's teapots
    assert hub.papers().total == 2


def test_a_paper_known_by_its_doi_gets_its_number_when_arxiv_tells_it(hub, new_paper):
    hub.take(read(JOURNAL.format("Stone, Ada").encode()))
    assert hub.entry("doi:10.1145/7").paper.authors == ("Ada Stone",)
    hub.add([new_paper("1808.00758", "Teapots at Rest", authors=("Ada Stone",))])
    assert hub.papers().total == 1
    assert hub.entry("doi:10.1145/7").paper.id == "arxiv:1808.00758"
    again = hub.take(read(JOURNAL.format("Stone, Ada").encode()))
    assert (again.new, again.changed, again.same) == (0, 0, 1)
