import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.hub.feeds.identifiers import ARCHIVES, ArxivId, paper_id, parse

FORMS = [
    ("1808.00758", "1808.00758", None),
    ("1808.00758v2", "1808.00758", 2),
    ("0704.0001", "0704.0001", None),
    ("1412.9999v10", "1412.9999", 10),
    ("2611.012345", "2611.012345", None),
    ("arXiv:1808.00758", "1808.00758", None),
    ("ARXIV: 1808.00758V3", "1808.00758", 3),
    ("arxiv:hep-th/9901001", "hep-th/9901001", None),
    ("hep-th/9901001v1", "hep-th/9901001", 1),
    ("math.CA/0611800v2", "math/0611800", 2),
    ("cond-mat.mes-hall/9901001", "cond-mat/9901001", None),
    ("Cs.AI/0411001", "cs/0411001", None),
    ("https://arxiv.org/abs/1808.00758", "1808.00758", None),
    ("http://www.arxiv.org/abs/1808.00758v2?context=cs#x", "1808.00758", 2),
    ("https://arxiv.org/pdf/1808.00758v2.pdf", "1808.00758", 2),
    ("https://export.arxiv.org/pdf/hep-th/9901001v3", "hep-th/9901001", 3),
    ("https://arxiv.org/abs/hep-th%2F9901001", "hep-th/9901001", None),
    ("https://arxiv.org/html/2405.18711v1/", "2405.18711", 1),
    ("https://huggingface.co/papers/1808.00758", "1808.00758", None),
    ("hf.co/papers/1808.00758.md", "1808.00758", None),
    ("https://huggingface.co/api/papers/1808.00758", "1808.00758", None),
    ("https://www.alphaxiv.org/abs/1808.00758v2", "1808.00758", 2),
    ("https://www.alphaxiv.org/overview/1808.00758.md", "1808.00758", None),
    ("https://ar5iv.labs.arxiv.org/html/1808.00758", "1808.00758", None),
    ("10.48550/arXiv.1808.00758", "1808.00758", None),
    ("https://doi.org/10.48550/arXiv.1808.00758", "1808.00758", None),
    ("oai:arXiv.org:hep-th/9901001", "hep-th/9901001", None),
    ("arXiv:1808.00758v1 [cs.CV]", "1808.00758", 1),
    ("  <1808.00758>, ", "1808.00758", None),
]
NONE = [
    "",
    "1808",
    "2.7183",
    "1808.0075",  # four digits after 2014
    "1412.00001",  # five before 2015
    "0703.0001",  # the scheme is younger
    "1813.00001",  # no such month
    "1808.00758v0",
    "1808.00758x",
    "foo/9901001",
    "hep-th/0704001",  # the old scheme had ended
    "hep-th/9106001",  # and had not begun
    "hep-th/9901",
    "title:kettlenet",
    "https://example.org/abs/1808.00758",
    "https://arxiv.org.evil.org/abs/1808.00758",
    "https://arxiv.org/list/cs.CV/recent",
    "a question about 1808.00758",
    "१८०८.००७५८",
    "9" * 1000,
]


@pytest.mark.parametrize(("text", "number", "version"), FORMS)
def test_reads_every_form_that_people_paste(text, number, version):
    assert parse(text) == ArxivId(number, version)


@pytest.mark.parametrize("text", NONE)
def test_takes_nothing_else_for_an_id(text):
    assert parse(text) is None
    assert paper_id(text) is None


def test_old_ids_keep_what_is_before_the_slash():
    """A reader that cuts addresses at the last slash loses the archive."""
    assert paper_id("http://arxiv.org/abs/hep-th/9901001v2") == "arxiv:hep-th/9901001"


new = st.builds(
    lambda year, month, serial: f"{year:02d}{month:02d}.{serial:0{5 if year >= 15 else 4}d}",
    st.integers(8, 50),
    st.integers(1, 12),
    st.integers(1, 9999),
)
old = st.builds(
    lambda archive, year, month, serial: f"{archive}/{year % 100:02d}{month:02d}{serial:03d}",
    st.sampled_from(sorted(ARCHIVES)),
    st.integers(1992, 2006),
    st.integers(1, 12),
    st.integers(1, 999),
)
wrapped = st.sampled_from(
    ["{}", "arXiv:{}", "https://arxiv.org/abs/{}", "https://arxiv.org/pdf/{}.pdf", " {} ",
     "https://huggingface.co/papers/{}", "alphaxiv.org/abs/{}", "10.48550/arXiv.{}"]
)  # fmt: skip


@given(new | old, st.none() | st.integers(1, 9999), wrapped)
def test_goes_in_and_comes_out_the_same(number, version, form):
    known = ArxivId(number, version)
    assert parse(form.format(known)) == known
    assert parse(str(known)) == parse(known.paper + (f"v{version}" if version else ""))
    assert parse(known.url) == ArxivId(number)


@given(st.text())
def test_no_text_makes_it_raise(text):
    found = parse(text)
    assert found is None or parse(found.number) == ArxivId(found.number)
