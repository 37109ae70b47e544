"""Foreign checkpoints."""

from pathlib import PurePosixPath

import pytest
import torch

from workingpapers.kit import checkpoints


def test_tensors_are_read(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    assert checkpoints.read(tmp_path / "a.pth", "Method")["a"].tolist() == [1, 1]


def test_what_holds_more_is_read_where_it_is_trusted_alone(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": PurePosixPath("x")}, path)
    with pytest.raises(ValueError, match="holds more than tensors and was not read"):
        checkpoints.read(path, "Method")
    assert checkpoints.read(path, "Method", trust=True) == {"a": PurePosixPath("x")}


def test_what_is_no_checkpoint_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "a.pth")
    with pytest.raises(ValueError, match="must be a checkpoint of Method"):
        checkpoints.read(tmp_path / "a.pth", "Method")
