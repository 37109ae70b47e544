import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.testing import assert_close

from workingpapers.papers.backprop_free import (
    CascadedForward,
    CascadedForwardNet,
    ForwardForward,
    ForwardForwardNet,
    MonoForward,
    MonoForwardNet,
    load,
    save,
)


@pytest.mark.parametrize(
    "model",
    [
        MonoForward((8, 6), act="tanh", readout="sum", epochs=1, random_state=3),
        ForwardForward((8, 6), epochs=1, peer=0, label_scale=2.0),
        CascadedForward((4, 6), "dfa", epochs=1, dfa_epochs=1, random_state=0),
        CascadedForward((4, 6), head="sparsemax", epochs=1),
        CascadedForward((4,), head="mse", ridge=1.0),
    ],
    ids=lambda model: repr(model)[:40],
)
def test_a_loaded_classifier_predicts_as_the_saved_one(model, tmp_path):
    x = torch.randn(30, 1, 8, 8)
    y = np.array(["cat", "dog", "owl"])[np.arange(30) % 3]
    model.fit(x, y)
    save(model, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", type(model))
    assert np.array_equal(loaded.predict(x), model.predict(x))
    assert_close(loaded.predict_proba(x), model.predict_proba(x))
    assert_close(loaded.goodness(x), model.goodness(x))
    assert loaded.get_params() == model.get_params()
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["config"])["classes"] == ["cat", "dog", "owl"]


@pytest.mark.parametrize(
    "network",
    [
        MonoForwardNet(4, (3,), 2, bias=False),
        ForwardForwardNet(6, (5, 4), 3),
        CascadedForwardNet(2, (8, 9), (3, 4), 4, original=True, link="softmax"),
    ],
    ids=lambda network: type(network).__name__,
)
def test_a_loaded_network_is_the_saved_one(network, tmp_path):
    if isinstance(network, ForwardForwardNet):
        network.mean_0.fill_(0.7)
    save(network, tmp_path / "net.safetensors")
    loaded = load(tmp_path / "net.safetensors")
    assert type(loaded) is type(network) and loaded.config == network.config
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_what_cannot_be_saved_or_loaded_is_named(tmp_path):
    from sklearn.exceptions import NotFittedError

    path = tmp_path / "x.safetensors"
    with pytest.raises(NotFittedError):
        save(MonoForward(), path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="has no 'config' in its metadata"):
        load(path)
    save_file({"a": torch.zeros(1)}, path, {"config": '{"class": "Other"}'})
    with pytest.raises(ValueError, match=r"must hold one of MonoForward, .* got 'Other'"):
        load(path)
    save(MonoForwardNet(4, (3,), 2), path)
    with pytest.raises(ValueError, match="must hold a ForwardForward, got a MonoForwardNet"):
        load(path, ForwardForward)
