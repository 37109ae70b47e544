"""How good a hub's answers are: nDCG@10 on Debian's package descriptions, judged by people.

    python benchmarks/quality.py --vocabulary /usr/share/debtags/vocabulary --out quality.md

Documents are the one-line descriptions of Debian packages, queries the names of tags ("Text
Editing"), and a package is relevant where its maintainers or users gave it that tag. Judgements
are incomplete, so figures are lower bounds: compare them with each other, not with other sets.
Needs a Debian or Ubuntu with `apt-cache`; the vocabulary is in the package `debtags`
(`apt-get download debtags && dpkg -x debtags_*.deb .`).
"""

import argparse
import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

import measuring
import numpy as np
import server
from building import open_hub

from workingpapers.core.types import Paper
from workingpapers.hub.hub import Hub
from workingpapers.hub.search.engine import joined
from workingpapers.hub.search.query import parse

FACETS = frozenset(
    """use works-with field game sound network web mail biology science hardware security admin x11
    accessibility protocol works-with-format""".split()
)
FEWEST, MOST = 20, 1500  # packages that a tag may have to be a query
FIRST = 10

Judged = Mapping[str, set[str]]  # the ids that are relevant, by query


def debtags(vocabulary: Path) -> tuple[list[Paper], Judged]:
    """Packages as papers, and the tags' names with the packages that carry them."""
    said = subprocess.run(
        ["apt-cache", "dumpavail"], capture_output=True, text=True, errors="replace", check=True
    )
    names = dict(
        re.findall(r"^Tag: (\S+)\nDescription: (.+)", vocabulary.read_text("utf-8"), re.MULTILINE)
    )
    texts: dict[str, str] = {}
    tagged: dict[str, set[str]] = defaultdict(set)
    for stanza in said.stdout.split("\n\n"):
        package, text, tags = (_field(stanza, name) for name in ("Package", "Description", "Tag"))
        # Later versions of a package often carry no tags.
        if package not in texts and text and tags:
            texts[package] = text
            for tag in re.split(r",\s*", tags):
                tagged[tag].add(package)
    judged = {
        names[tag]: {f"debian:{package}" for package in packages}
        for tag, packages in tagged.items()
        if tag.split("::")[0] in FACETS and tag in names and FEWEST <= len(packages) <= MOST
    }
    papers = [
        Paper(i, texts[i.removeprefix("debian:")], (), "", date(2025, 1, 1), "")
        for i in sorted(set().union(*judged.values()))
    ]
    return papers, judged


def _field(stanza: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*(?:\n .*)*)", stanza, re.MULTILINE)
    return found[1].strip() if found else ""


def ndcg(found: Sequence[str], relevant: set[str]) -> float:
    """Normalised discounted cumulative gain of the first ten, each relevant or not.

    >>> ndcg(["a", "b"], {"a"}), round(ndcg(["b", "a"], {"a"}), 3)
    (1.0, 0.631)
    """
    discounts = 1 / np.log2(np.arange(2, FIRST + 2))
    gains = [paper_id in relevant for paper_id in found[:FIRST]]
    best = discounts[: len(relevant)].sum()
    return float((discounts[: len(gains)] * gains).sum() / best)


def scores(hub: Hub, judged: Judged) -> list[str]:
    """The mean nDCG@10 of words, of meaning and of both."""
    index, made = hub._index, defaultdict(list)
    with measuring.progress() as bars, hub._store.reading() as db:
        for typed, relevant in bars.track(judged.items(), description="asking"):
            query = parse(typed.replace(":", " "))
            by_words, near = index.by_words(db, query), index.near(db, query) or []
            made["words"].append(ndcg(by_words.any_of, relevant))
            made["meaning"].append(ndcg(near, relevant))
            made["both"].append(ndcg(joined(query, by_words, near).ids, relevant))
    return [f"{np.mean(values):.3f}" for values in made.values()]


def filled(hub: Hub, papers: Iterable[Paper]) -> Hub:
    """A hub with these papers, indexed and encoded."""
    with measuring.progress() as bars:
        bar = bars.add_task("indexing and encoding")
        hub.add(papers, on_index=lambda done, total: bars.update(bar, completed=done, total=total))
    return hub


def main() -> None:
    """Measure both engines."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--vocabulary", type=Path, default=Path("/usr/share/debtags/vocabulary"))
    asked.add_argument("--engines", nargs="+", default=["embedded", "postgres"])
    asked.add_argument("--keep", type=Path, help="folder for the hubs; gone afterwards without one")
    asked.add_argument("--out", type=Path, help="file for the table")
    options = asked.parse_args()
    papers, judged = debtags(options.vocabulary)
    measuring.err.print(
        f"{len(papers):,} packages, {len(judged):,} tags, "
        f"{sum(map(len, judged.values())):,} judgements"
    )
    rows = []
    with tempfile.TemporaryDirectory() as made:
        keep = options.keep or Path(made)
        keep.chmod(0o755)  # the server of a root runs as somebody else
        if "embedded" in options.engines:
            with open_hub(keep / "quality") as hub:
                rows.append(["embedded", *scores(filled(hub, papers), judged)])
        if "postgres" in options.engines:
            (keep / "quality-pg").mkdir(exist_ok=True)
            with server.running(keep / "quality-pg" / "data") as address:
                with open_hub(
                    keep / "quality-pg" / "home", server.database(address, "quality")
                ) as hub:
                    rows.append(["postgres", *scores(filled(hub, papers), judged)])
    printed = measuring.table(["nDCG@10", "words", "meaning", "both"], rows)
    measuring.out.print(printed, soft_wrap=True, markup=False)
    if options.out:
        options.out.write_text(printed + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
