"""WordNet 3.0: words grouped by meaning, each meaning with a class, a definition and examples."""

import re
from dataclasses import dataclass
from pathlib import Path

from workingpapers.kit.data.source import DebianPackage

_FOLDER = "usr/share/wordnet/"
_KINDS = ("noun", "verb", "adj", "adv")
_CLASSES = (  # lexicographer files, by their numbers
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute "
    "noun.body noun.cognition noun.communication noun.event noun.feeling noun.food noun.group "
    "noun.location noun.motive noun.object noun.person noun.phenomenon noun.plant "
    "noun.possession noun.process noun.quantity noun.relation noun.shape noun.state "
    "noun.substance noun.time verb.body verb.change verb.cognition verb.communication "
    "verb.competition verb.consumption verb.contact verb.creation verb.emotion verb.motion "
    "verb.perception verb.possession verb.social verb.stative verb.weather adj.ppl"
).split()

SOURCE = DebianPackage(
    name="wordnet",
    package="wordnet-base",
    version="1:3.0-37",
    files={
        _FOLDER + "data.noun": ("fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2"),
        _FOLDER + "data.verb": ("adcf43e35b581e8036d8b5a52d63d9cd3d3b4870b2720d3c03c799df44777bc2"),
        _FOLDER + "data.adj": ("c89120dfc1f046ddff4a631bf9b7e9fa1a36b5e86565a23bf82dbe14f30b88a7"),
        _FOLDER + "data.adv": ("444a63bf3955080ab7524f5079cfc07ff9bc682cb98bdb1db73b0fb9829f1139"),
    },
    licence="WordNet licence: free, with its notice",
    megabytes=6.5,
    about="WordNet 3.0: 117,659 meanings with words, class, definition and examples",
)


@dataclass(frozen=True, slots=True)
class Meaning:
    """One synset."""

    key: str  # its kind and place in the files: "n00001740"
    words: tuple[str, ...]  # the most usual first; spaces, not underscores
    group: str  # the lexicographer file it is in: "noun.animal", "verb.motion"
    definition: str
    examples: tuple[str, ...]
    broader: tuple[str, ...]  # keys of its hypernyms, instances included


def wordnet(kind: str = "noun", root: Path | None = None) -> list[Meaning]:
    """Read all meanings of one kind of word, in the order of the file.

    Args:
        kind: noun, verb, adj or adv.
        root: a folder with the `data.` files to read instead; their content is not verified.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    file = f"data.{kind}"
    path = SOURCE.locate(_FOLDER + file) if root is None else root / file
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_meaning(line) for line in lines if not line.startswith(" ")]  # the licence is indented


def _meaning(line: str) -> Meaning:
    """One line of a data file; see wndb(5WN)."""
    fields, _, gloss = line.partition(" | ")
    place, number, letter, count, *rest = fields.split()
    size = 2 * int(count, 16)
    words = [re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ") for word in rest[:size:2]]
    links = rest[size + 1 : size + 1 + 4 * int(rest[size])]
    broader = [links[i + 2] + links[i + 1] for i in range(0, len(links), 4) if links[i][0] == "@"]
    examples = re.findall(r'"([^"]+)"', gloss)
    definition = re.split(r';\s*"', gloss)[0].strip()
    return Meaning(
        key=("a" if letter == "s" else letter) + place,
        words=tuple(words),
        group=_CLASSES[int(number)],
        definition=definition,
        examples=tuple(examples),
        broader=tuple(broader),
    )
