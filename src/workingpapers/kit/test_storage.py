import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from workingpapers.kit import storage

KINDS = {"Linear": nn.Linear, "LayerNorm": nn.LayerNorm}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_config_and_tensors_come_back_as_they_were(path):
    config = {"sizes": [2, 3], "act": None, "rate": 0.1, "name": "größer"}
    whole = nn.Parameter(torch.arange(6.0, dtype=torch.float64).view(2, 3))
    tensors = {"whole": whole, "turned": whole.T, "again": whole, "none": torch.zeros(0, 2)}
    storage.write(path, tensors, "mine", config)
    read, found = storage.read(str(path), "mine")
    assert read == config and list(found) == sorted(tensors)
    assert_close(found, {name: tensor.detach() for name, tensor in tensors.items()})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"mine": json.dumps(config)}


def test_writing_leaves_the_tensors_alone(path):
    weight = nn.Parameter(torch.ones(2, 3).T)
    storage.write(path, {"w": weight}, "mine", {})
    assert weight.requires_grad and not weight.is_contiguous()


def test_files_that_cannot_be_read_say_why(path):
    with pytest.raises(FileNotFoundError, match=r"that `save` wrote, there is no .*model.safet"):
        storage.read(path, "mine")
    with pytest.raises(FileNotFoundError, match="there is no"):
        storage.read(path.parent, "mine")
    for content in (b"", b"PK\3\4 and so on", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"wrote; .*model\.safetensors is no safetensors file"):
            storage.read(path, "mine")
    for about in (None, {"yours": "{}"}):
        save_file({"a": torch.zeros(1)}, path, about)
        with pytest.raises(ValueError, match=r"wrote; .*tensors has no 'mine' in its metadata"):
            storage.read(path, "mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "JSON: Expecting"), ("", "JSON: Expecting"), ("[1]", r"JSON object: \[1\]")],
)
def test_configs_that_do_not_decode_are_named(path, text, message):
    save_file({"a": torch.zeros(1)}, path, {"mine": text})
    with pytest.raises(ValueError, match=rf"the 'mine' of .*model\.safetensors is no .*{message}"):
        storage.read(path, "mine")


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda config: config["depth"], "together: it has no 'depth'"),
        (lambda config: nn.Linear(**config), "unexpected keyword argument 'colour'"),
        (lambda config: config["colour"].items(), "'str' object has no attribute 'items'"),
        (lambda config: nn.Conv1d(3, 3, 1, groups=2), "in_channels must be divisible by groups"),
        (lambda config: nn.Linear(-1, 1), "negative dimension"),
    ],
)
def test_configs_that_cannot_be_used_are_blamed_on_their_file(path, use, message):
    with pytest.raises(ValueError, match=message) as caught, storage.blaming(path):
        use({"colour": "red"})
    assert str(caught.value).startswith(f"path: what {path} holds does not fit")
    assert caught.value.__cause__ is not None


def test_interrupts_are_blamed_on_no_file(path):
    with pytest.raises(KeyboardInterrupt), storage.blaming(path):
        raise KeyboardInterrupt


def test_tensors_fill_a_module(path):
    saved, module = nn.Linear(2, 3), nn.Linear(2, 3)
    storage.write(path, saved.state_dict(), "mine", {})
    storage.fill(module, storage.read(path, "mine")[1], path)
    assert_close(module.state_dict(), saved.state_dict())


def test_tensors_that_do_not_fit_are_named(path):
    tensors = {"weight": torch.zeros(3, 4), "scale": torch.zeros(3)}
    with pytest.raises(ValueError, match="do not fit") as caught:
        storage.fill(nn.Linear(2, 3), tensors, path, argument="into")
    assert str(caught.value) == (
        f"into: the tensors in {path} do not fit the Linear: bias is missing; scale is unknown; "
        "weight must be (3, 2), got (3, 4)"
    )
    with pytest.raises(ValueError, match=r"^path: .*0.bias is missing; 1.weight .* and 2 more$"):
        storage.fill(nn.Sequential(*(nn.Linear(1, 1) for _ in range(3))), {}, path)


def test_what_a_module_itself_says_of_tensors_is_kept(path):
    module = nn.Linear(2, 3)

    def refuse(*_):
        raise ValueError("weight holds 9 bands")

    module.register_load_state_dict_pre_hook(refuse)
    with pytest.raises(ValueError, match=r"^path: .* the Linear: weight holds 9 bands$"):
        storage.fill(module, {}, path)


def test_kinds_go_by_name_both_ways(path):
    assert storage.name_of(nn.LayerNorm(2), KINDS) == "LayerNorm"
    assert storage.kind_named("LayerNorm", KINDS, path) is nn.LayerNorm


def test_other_kinds_are_refused_both_ways(path):
    class Other(nn.Linear):
        pass

    with pytest.raises(TypeError, match="layer must be one of Linear, LayerNorm, got Other"):
        storage.name_of(Other(1, 1), KINDS, argument="layer")
    Other.__name__ = "Linear"
    with pytest.raises(TypeError, match="model must be one of Linear, LayerNorm, got Linear"):
        storage.name_of(Other(1, 1), KINDS)
    for name in ("Other", None, ["Linear"]):
        with pytest.raises(ValueError, match=r"must hold one of Linear, LayerNorm, got .*\w"):
            storage.kind_named(name, KINDS, path)


def test_what_was_loaded_must_be_what_was_expected(path):
    layer = nn.Linear(1, 1)
    assert storage.expected(layer, nn.Module, path) is layer
    with pytest.raises(ValueError, match=r"tensors must hold a LayerNorm, got a Linear"):
        storage.expected(layer, nn.LayerNorm, path)


@pytest.mark.parametrize(("seed", "kept"), [(3, 3), (None, None), (np.random.RandomState(0), None)])
def test_fitted_classifiers_are_described_in_json(seed, kept):
    given = {"hidden": (8, 6), "act": "elu", "random_state": seed}
    model = SimpleNamespace(
        get_params=lambda deep: dict(given),
        classes_=np.array(["a", "b"]),
        input_shape_=(1, 8, 8),
    )
    config = json.loads(json.dumps(storage.fitted(model)))
    assert config["classes"] == ["a", "b"] and config["shape"] == [1, 8, 8]
    assert storage.arguments(config["params"]) == {**given, "random_state": kept}
