"""The packages of Debian 12 as a graph: who names whom, words of the descriptions, sections.

Nodes are the 7,063 packages of the largest connected part of 15 topical sections, and a link means
that one names the other in Depends, Pre-Depends, Recommends, Suggests or Enhances. Features are the
common words of the one-line description, without words of the package's own name and without names
of sections, so that the label cannot be read off. Majority class 0.200; with 20 labels a class an
MLP reaches 0.378 and a two-layer GCN 0.628. Scores say nothing about those on Cora.

Licence: names, relations and sections are facts of the archive's index. The descriptions, which are
under each package's own licence, are not here, only which common words occur in them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DebianGraph:
    """A graph whose nodes are packages."""

    x: Float32[Tensor, "n words"]  # 0 or 1
    y: Int64[Tensor, " n"]
    edge_index: Int64[Tensor, "2 edges"]  # each link in both directions, no loops
    classes: tuple[str, ...]
    packages: tuple[str, ...]
    words: tuple[str, ...]


def debian_graph() -> DebianGraph:
    """Read the graph, which lies beside this module. It has no split of its own."""
    with np.load(Path(__file__).with_suffix(".npz")) as file:
        part = {name: file[name] for name in file.files}
    names = [tuple(map(str, part[name])) for name in ("classes", "packages", "words")]
    x = torch.zeros(len(part["y"]), len(part["words"]))
    rows = np.repeat(np.arange(len(x)), np.diff(part["x_indptr"]))
    x[torch.from_numpy(rows), torch.from_numpy(part["x_indices"].astype(np.int64))] = 1.0
    link = torch.from_numpy(part["edge_index"].astype(np.int64))
    both = torch.cat([link, link.flip(0)], dim=1)
    return DebianGraph(x, torch.from_numpy(part["y"].astype(np.int64)), both, *names)
