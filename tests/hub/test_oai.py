"""Answers of arXiv's OAI-PMH interface, made in its formats."""

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import oai
from workingpapers.hub.feeds.reading import read
from workingpapers.hub.feeds.records import Rejected

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<responseDate>2026-03-01T12:00:00Z</responseDate>
<request verb="ListRecords" metadataPrefix="arXiv">http://oaipmh.arxiv.org/oai</request>
"""
HEADER = """<header>
  <identifier>oai:arXiv.org:{number}</identifier><datestamp>2026-02-28</datestamp>
  <setSpec>cs:cs:LG</setSpec><setSpec>physics:hep-th</setSpec>
</header>"""
ARXIV = (
    "<record>"
    + HEADER
    + """<metadata>
<arXiv xmlns="http://arxiv.org/OAI/arXiv/">
  <id>{number}</id><created>2018-08-02</created><updated>2026-02-27</updated>
  <authors>
    <author><keyname>Stone</keyname><forenames>Ada</forenames></author>
    <author><keyname>Sch\\"olkopf</keyname><forenames>B.</forenames><suffix>Jr</suffix>
      <affiliation>Tea Lab</affiliation></author>
  </authors>
  <title>Teapots,
  part {number}</title>
  <categories>cs.CV cs.LG</categories>
  <comments>9 pages. Code: https://github.com/tealab/lids.</comments>
  <license>http://creativecommons.org/licenses/by/4.0/</license>
  <abstract>  We weigh teapots
and find that $L &lt; 5$.
</abstract>
</arXiv></metadata></record>
"""
)
RAW = (
    "<record>"
    + HEADER
    + """<metadata>
<arXivRaw xmlns="http://arxiv.org/OAI/arXivRaw/">
  <id>{number}</id><submitter>Ada Stone</submitter>
  <version version="v1"><date>Thu, 2 Aug 2018 08:20:31 GMT</date><size>20kb</size></version>
  <version version="v2"><date>Fri, 27 Feb 2026 08:20:31 GMT</date><size>21kb</size></version>
  <title>Teapots, part {number}</title>
  <authors>Ada Stone (Tea Lab, Delft) and B. Sch\\"olkopf</authors>
  <categories>hep-th cs.LG</categories>
  <abstract>  We weigh teapots.</abstract>
</arXivRaw></metadata></record>
"""
)
DC = (
    "<record>"
    + HEADER
    + """<metadata>
<oai_dc:dc xmlns:oai_dc="http://www.openarchives.org/OAI/2.0/oai_dc/"
  xmlns:dc="http://purl.org/dc/elements/1.1/">
  <dc:title>Teapots, part {number}</dc:title>
  <dc:creator>Stone, Ada</dc:creator><dc:creator>Tea Lab</dc:creator>
  <dc:subject>Computer Science - Machine Learning</dc:subject>
  <dc:description>We weigh teapots.</dc:description>
  <dc:description>Comment: Code at https://github.com/tealab/lids</dc:description>
  <dc:date>2026-02-27</dc:date><dc:date>2018-08-02</dc:date>
  <dc:type>text</dc:type>
  <dc:identifier>http://arxiv.org/abs/{number}</dc:identifier>
  <dc:identifier>doi:10.1000/teapots</dc:identifier>
</oai_dc:dc></metadata></record>
"""
)
DELETED = """<record><header status="deleted">
  <identifier>oai:arXiv.org:{number}</identifier><datestamp>2026-02-28</datestamp>
</header></record>
"""


def answer(*records, token="", size=""):
    told = f"<resumptionToken{size}>{token}</resumptionToken>" if token or size else ""
    return f"{HEAD}<ListRecords>\n{''.join(records)}{told}</ListRecords>\n</OAI-PMH>\n"


def failed(code, reason=""):
    return f'{HEAD}<error code="{code}">{reason}</error></OAI-PMH>'


@pytest.mark.parametrize(
    ("form", "authors", "fields", "code"),
    [
        (ARXIV, ("Ada Stone", "B. Schölkopf Jr"), ("cs.CV", "cs.LG"), True),
        (RAW, ("Ada Stone", "B. Schölkopf"), ("hep-th", "cs.LG"), False),
        (DC, ("Ada Stone", "Tea Lab"), ("cs.LG", "hep-th"), True),
    ],
)
def test_reads_each_format(form, authors, fields, code):
    reading = read(answer(form.format(number="1808.00758")).encode())
    (paper,) = reading.records
    assert (reading.format, reading.yielding) == ("OAI-PMH", False)
    assert (paper.id, paper.title) == ("arxiv:1808.00758", "Teapots, part 1808.00758")
    assert (paper.published, paper.url) == (date(2018, 8, 2), "https://arxiv.org/abs/1808.00758")
    assert (paper.authors, paper.fields) == (authors, fields)
    assert paper.code == ("https://github.com/tealab/lids" if code else "")
    assert paper.abstract.startswith("We weigh teapots")


@pytest.mark.parametrize("form", [ARXIV, RAW, DC])
@pytest.mark.parametrize("number", ["hep-th/9901001", "math/0611800", "0704.0001"])
def test_old_ids_are_no_trouble(form, number):
    (paper,) = read(answer(form.format(number=number)).encode()).records
    assert paper.id == f"arxiv:{number}"


def test_deleted_records_are_told_apart_from_bad_ones():
    records = [ARXIV.format(number="1808.00758"), DELETED.format(number="hep-th/9901001")]
    harvest = oai.harvest(answer(*records))
    assert [paper.id for paper in harvest.records] == ["arxiv:1808.00758"]
    assert harvest.deleted == ("arxiv:hep-th/9901001",)


def test_tokens_and_sizes_are_told():
    one = ARXIV.format(number="1808.00758")
    harvest = oai.harvest(answer(one, token=" 123|456 ", size=' completeListSize="81"'))
    assert (harvest.token, harvest.total, harvest.whole) == ("123|456", 81, True)
    last = oai.harvest(answer(one, size=' completeListSize="many"'))
    assert (last.token, last.total, last.whole) == ("", None, True)


@pytest.mark.parametrize("code", ["noRecordsMatch", "badResumptionToken", "badArgument"])
def test_errors_are_told(code):
    harvest = oai.harvest(failed(code, " No\n such thing. "))
    assert (harvest.error, harvest.reason) == (code, "No such thing.")
    assert (harvest.records, harvest.whole) == ([], True)
    (said,) = read(failed(code, "No such thing.").encode()).records
    assert said == Rejected("the answer", f"arXiv says {code}: No such thing.")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<id>1808.00758</id>", "<id>tea</id>", "id: expected an arXiv id, got 'tea'"),
        ("<created>2018-08-02", "<created>once", "created: expected a date, got 'once'"),
        ("Teapots,\n  part 1808.00758", " ", "title: it has none"),
        ("<arXiv xmlns", "<kettle xmlns", "expected one of arXiv, arXivRaw, oai_dc, got kettle"),
    ],
)
def test_a_bad_record_is_named_and_its_neighbours_stay(old, new, reason):
    bad = ARXIV.format(number="1808.00758").replace(old, new)
    bad = bad.replace("</arXiv>", "</kettle>") if "kettle" in new else bad
    good = ARXIV.format(number="1808.00001")
    first, second = oai.harvest(answer(bad, good)).records
    assert first.place == "record 1"
    assert first.reason == f"oai:arXiv.org:1808.00758: {reason}"
    assert second.id == "arxiv:1808.00001"


def test_other_answers_are_named():
    for text in ("", "<html><body>Bad gateway</body></html>", "<feed/>", "gone"):
        harvest = oai.harvest(text)
        assert not harvest.whole
        assert isinstance(harvest.records[0], Rejected)


WHOLE = answer(*(ARXIV.format(number=f"1808.0000{n}") for n in range(3)), token="more")


@given(st.integers(0, len(WHOLE)))
@settings(max_examples=100, deadline=None)
def test_no_cut_makes_it_raise_or_invent_or_look_whole(cut):
    harvest = oai.harvest(WHOLE[:cut])
    papers = [item for item in harvest.records if isinstance(item, Paper)]
    assert papers == oai.harvest(WHOLE).records[: len(papers)]
    assert len(papers) == WHOLE[:cut].count("</record>")
    assert harvest.whole is (cut >= len(WHOLE.rstrip()))


def test_entities_are_neither_fetched_nor_unfolded(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("top secret")
    doctype = (
        f'<!DOCTYPE x [<!ENTITY x SYSTEM "{secret.as_uri()}"><!ENTITY a "aaaaaaaaaa">'
        '<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
    )
    text = answer(ARXIV.format(number="1808.00758")).replace("<OAI", doctype + "<OAI", 1)
    for entity in ("&x;", "&c;", "&x; & broken"):
        found = str(oai.harvest(text.replace("Ada", entity)).records)
        assert "secret" not in found and "aaaaaaaaaaaaaaaaaaaa" not in found
        assert len(found) < 2000


@pytest.mark.parametrize("codec", ["utf-16", "utf-8-sig", "latin-1"])
def test_a_wrong_declaration_does_no_harm(codec):
    text = answer(ARXIV.format(number="1808.00758")).replace("Ada", "Adà")
    (paper,) = read(text.encode(codec)).records
    assert paper.authors[0] == "Adà Stone"
