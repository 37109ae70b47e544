"""Reading golden files, and what counts as a difference."""

import json

import pytest
import torch
from safetensors.torch import save_file

from workingpapers.kit import golden


def test_a_file_is_taken_apart_by_the_first_part_of_its_names(tmp_path):
    names = ("state/a.b", "state_second/a.b", "input/x", "output/y", "mid/z", "grad/a.b")
    tensors = {name: torch.full((1,), float(n)) for n, name in enumerate(names)}
    save_file(tensors, tmp_path / "golden.safetensors", {"config": json.dumps({"dim": 3})})
    read = golden.read(tmp_path / "golden.safetensors")
    assert read.config == {"dim": 3}
    assert {name: t.item() for name, t in read.state.items()} == {"a.b": 0, "state_second/a.b": 1}
    assert list(read.inputs) == ["x"]
    assert set(read.expected) == {"output/y", "mid/z", "grad/a.b"}


def test_outputs_stand_under_their_bare_names_as_well():
    made = golden.answers({"y": torch.ones(1)}, mid={"z": torch.ones(1)})
    assert set(made) == {"y", "output/y", "mid/z"}


@pytest.mark.parametrize(
    ("got", "said"),
    [
        ({}, "not answered"),
        ({"output/y": torch.ones(3)}, "shape"),
        ({"output/y": torch.tensor([1.0, 2.2])}, "off by 2.00e-01"),
        ({"output/y": torch.tensor([1.0, float("nan")])}, "off by nan"),
    ],
)
def test_a_difference_is_named(got, said):
    [line] = golden.differences(got, {"output/y": torch.tensor([1.0, 2.0])}, {"*": (0.05, 0.05)})
    assert line.startswith("output/y: ") and said in line


def test_the_first_pattern_that_fits_decides_and_none_is_a_difference():
    want, got = {"output/y": torch.ones(1)}, {"output/y": torch.full((1,), 1.5)}
    assert golden.differences(got, want, {"output/y": (1.0, 0.0), "*": (0.0, 0.0)}) == []
    assert golden.differences(got, want, {"*": (float("inf"), 0.0)}) == []
    [line] = golden.differences(got, want, {"mid/*": (1.0, 0.0)})
    assert "no tolerance" in line
