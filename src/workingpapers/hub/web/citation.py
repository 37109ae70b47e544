"""A paper as others cite it: BibTeX, and the tags that reference managers read."""

import re

from workingpapers.core.types import Paper
from workingpapers.hub.web.figures import is_web, number

_SPECIAL = re.compile(r"(?<!\\)([%&#_])")


def bibtex(paper: Paper) -> str:
    r"""An entry of kind misc; without authors where they are not known.

    >>> from datetime import date
    >>> print(bibtex(Paper("arxiv:1808.00758", "On 5% & more", ("Bo Yang",), "",
    ...                    date(2018, 8, 2), "")))
    @misc{yang2018on,
      title = {{On 5\% \& more}},
      author = {Bo Yang},
      year = {2018},
      eprint = {1808.00758},
      archivePrefix = {arXiv},
      url = {https://arxiv.org/abs/1808.00758}
    }
    """
    arxiv = number(paper)
    url = f"https://arxiv.org/abs/{arxiv}" if arxiv else paper.url if is_web(paper.url) else ""
    lines = {
        "title": f"{{{_safe(paper.title)}}}",
        "author": " and ".join(map(_safe, paper.authors)),
        "year": str(paper.published.year),
        "eprint": arxiv,
        "archivePrefix": "arXiv" if arxiv else "",
        "url": re.sub(r"[{}\\\s]", "", url),
    }
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in lines.items() if value)
    return f"@misc{{{_key(paper)},\n{body}\n}}"


def _key(paper: Paper) -> str:
    name = paper.authors[0].split()[-1] if paper.authors and paper.authors[0].split() else ""
    word = next(iter(re.findall(r"[A-Za-z]+", paper.title)), "paper")
    return re.sub(r"[^a-z0-9]", "", f"{name}{paper.published.year}{word}".lower())


def _safe(text: str) -> str:
    """Escape what BibTeX would trip over; formulas stay, braces that do not match go."""
    text = " ".join(text.split())
    if text.count("{") != text.count("}") or "}" in text.partition("{")[0]:
        text = text.replace("{", "").replace("}", "")
    parts = text.split("$")
    if len(parts) % 2 == 0:  # a lone dollar is a price
        return _SPECIAL.sub(r"\\\1", text).replace("$", r"\$")
    return "$".join(_SPECIAL.sub(r"\\\1", p) if i % 2 == 0 else p for i, p in enumerate(parts))


def tags(paper: Paper, page: str) -> list[tuple[str, str]]:
    """Name and content of the `citation_*` tags for the head of a page."""
    found = [("citation_title", paper.title)]
    found += [("citation_author", author) for author in paper.authors]
    found += [("citation_publication_date", paper.published.strftime("%Y/%m/%d"))]
    if arxiv := number(paper):
        found += [
            ("citation_arxiv_id", arxiv),
            ("citation_pdf_url", f"https://arxiv.org/pdf/{arxiv}"),
        ]
    return [*found, ("citation_abstract_html_url", page)]
