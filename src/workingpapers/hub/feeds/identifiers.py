"""arXiv's identifiers, old and new, in whatever form people paste them."""

import re
from dataclasses import dataclass
from datetime import date
from urllib.parse import unquote

# An id of before April 2007 starts with one of these.
ARCHIVES = frozenset(
    """acc-phys adap-org alg-geom ao-sci astro-ph atom-ph bayes-an chao-dyn chem-ph cmp-lg comp-gas
    cond-mat cs dg-ga funct-an gr-qc hep-ex hep-lat hep-ph hep-th math math-ph mtrl-th nlin nucl-ex
    nucl-th patt-sol physics plasm-ph q-alg q-bio quant-ph solv-int supr-con""".split()
)

_NEW = r"(?P<new>(?P<yy>\d\d)(?P<mm>0[1-9]|1[0-2])\.(?P<serial>\d{4,6}))"
_OLD = (
    r"(?P<archive>[a-z]+(?:-[a-z]+)?)(?:\.[a-z]{2}|\.[a-z]+-[a-z]+)?"
    r"/(?P<oldyy>\d\d)(?P<oldmm>0[1-9]|1[0-2])(?P<oldserial>\d{3})"
)
_ID = re.compile(rf"(?:{_NEW}|{_OLD})(?:v(?P<version>[1-9]\d{{0,3}}))?", re.ASCII)
_ADDRESS = re.compile(
    r"""(?:https?://)?(?:www\.|export\.|browse\.|labs\.)*
    (?:arxiv\.org/(?:abs|pdf|html|ps|format|src|e-print)
      |ar5iv(?:\.labs\.arxiv)?\.org/(?:abs|html)
      |(?:huggingface\.co|hf\.co)/(?:api/)?papers
      |alphaxiv\.org/(?:abs|pdf|html|overview|audio)
      |(?:dx\.)?doi\.org/10\.48550/arxiv[.:]
    )/?(?P<rest>[^?\#]*)""",
    re.VERBOSE,
)
_PREFIX = re.compile(r"^(?:(?:doi:\s*)?10\.48550/arxiv[.:]|(?:oai:arxiv\.org|arxiv)\s*:\s*)")
_TAIL = re.compile(r"(?:\.pdf|\.md|\.html|/)+$|\s*\[[a-z-]+(?:\.[a-z-]+)?\]?$")


@dataclass(frozen=True, slots=True)
class ArxivId:
    """A paper on arXiv; `version` is None for the newest."""

    number: str  # "1808.00758", "hep-th/9901001"
    version: int | None = None

    @property
    def paper(self) -> str:
        """The id that the hub keeps the paper under, whatever the version."""
        return f"arxiv:{self.number}"

    @property
    def url(self) -> str:
        """The page of its abstract."""
        return f"https://arxiv.org/abs/{self.number}"

    @property
    def month(self) -> date:
        """The first day of the month in which it came to arXiv: its number says so."""
        digits = self.number.rpartition("/")[2]
        year = int(digits[:2])
        return date(1900 + year if year > 90 else 2000 + year, int(digits[2:4]), 1)

    def __str__(self) -> str:
        return self.number if self.version is None else f"{self.number}v{self.version}"


def parse(text: str) -> ArxivId | None:
    """Read an id, bare, with a prefix or inside an address; None where it is none.

    >>> parse("https://arxiv.org/pdf/1808.00758v2.pdf")
    ArxivId(number='1808.00758', version=2)
    >>> parse("arXiv:math.CA/0611800v2")
    ArxivId(number='math/0611800', version=2)
    >>> parse("2.7183") is None
    True
    """
    if len(text) > 300:
        return None
    plain = unquote(text).strip().strip("<>()[]\"',;").strip().lower()
    address = _ADDRESS.fullmatch(re.sub(r"[?#].*", "", plain))
    plain = address["rest"] if address else _PREFIX.sub("", plain, count=1)
    match = _ID.fullmatch(_TAIL.sub("", plain))
    if match is None:
        return None
    version = int(match["version"]) if match["version"] else None
    if match["new"]:
        # Four digits until the end of 2014, five since; a sixth may come.
        since_2015 = match["yy"] >= "15"
        known = "0704" <= match["yy"] + match["mm"]
        if not known or (len(match["serial"]) > 4) is not since_2015:
            return None
        return ArxivId(match["new"], version)
    month = int(match["oldyy"] + match["oldmm"])
    if match["archive"] not in ARCHIVES or not (month >= 9107 or month <= 703):
        return None
    number = f"{match['oldyy']}{match['oldmm']}{match['oldserial']}"
    return ArxivId(f"{match['archive']}/{number}", version)


def paper_id(text: str) -> str | None:
    """The hub's id of the arXiv paper that `text` names.

    >>> paper_id("hf.co/papers/1808.00758.md")
    'arxiv:1808.00758'
    """
    found = parse(text)
    return found.paper if found else None
