import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from workingpapers.kit.layers import grafting


class Wrapped(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base
        self.scale = nn.Parameter(torch.ones(1))


def shared():
    layer = nn.Linear(2, 2)
    return nn.ModuleDict({"a": layer, "b": nn.Sequential(layer), "c": nn.Linear(2, 2)})


def test_a_layer_in_two_places_is_wrapped_once_and_put_back_in_both():
    model = shared()
    layer = model["a"]
    wrap = Wrapped(layer)
    grafting.install(model, {"a": wrap, "b.0": wrap})
    assert list(grafting.wraps(model, Wrapped)) == ["a"]
    grafting.take_off(model.eval(), Wrapped)
    assert model["a"] is layer and model["b"][0] is layer
    assert not layer.training


def test_a_compiled_model_is_looked_into():
    model, compiled = shared(), nn.Module()
    compiled._orig_mod = model  # as torch.compile holds it
    assert grafting.uncompiled(compiled) is model
    assert grafting.uncompiled(model) is model


def test_what_trained_trains_on_after_an_error():
    model = shared()
    model["c"].requires_grad_(False)
    with pytest.raises(RuntimeError, match="half-way"), grafting.trainable_on_error(model):
        model.requires_grad_(False)
        raise RuntimeError("half-way")
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, False]


def test_a_state_that_does_not_fit_is_named_and_nothing_is_copied():
    held = {"x": torch.zeros(2), "y": torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r"y is missing; z is unknown; x must be \(2,\), got"):
        grafting.copy_in({"x": torch.ones(3), "z": torch.ones(1)}, held)
    grafting.copy_in({"x": torch.ones(2), "y": torch.ones(1)}, held)
    assert held["x"].tolist() == [1, 1]


def test_a_file_gives_back_config_and_tensors(tmp_path):
    grafting.write(tmp_path / "a", {"x": torch.arange(4.0)[::2]}, "mine", {"r": 2})
    config, state = grafting.read(tmp_path / "a", "mine")
    assert config == {"r": 2} and state["x"].tolist() == [0, 2]
    with pytest.raises(ValueError, match="no 'theirs' config"):
        grafting.read(tmp_path / "a", "theirs")


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "a").write_text("nothing")
    with pytest.raises(ValueError, match="must be a safetensors file"):
        grafting.read(tmp_path / "a", "mine")
    save_file({"x": torch.zeros(1)}, tmp_path / "b")
    with pytest.raises(ValueError, match="must hold an adapter of mine"):
        grafting.read(tmp_path / "b", "mine")
