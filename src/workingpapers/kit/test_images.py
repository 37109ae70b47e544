"""Photographs in any form, and back in the same."""

import numpy as np
import pytest
import torch
from torch import nn

from workingpapers.kit.images import opened, resting


@pytest.mark.parametrize(
    "image",
    [
        torch.rand(3, 4, 5),
        torch.rand(2, 3, 4, 5).double(),
        torch.randint(256, (3, 4, 5), dtype=torch.uint8),
        np.random.default_rng(0).random((4, 5, 3), dtype=np.float32),
        np.random.default_rng(0).integers(256, size=(2, 4, 5, 3), dtype=np.uint8),
    ],
    ids=lambda image: f"{type(image).__name__}-{image.dtype}",
)
def test_what_is_opened_and_closed_is_what_was_given(image):
    taken = opened(image)
    assert taken.pixels.shape[-3:] == (3, 4, 5)
    assert taken.pixels.is_floating_point()
    assert 0 <= taken.pixels.min() <= taken.pixels.max() <= 1
    back = taken.closed(taken.pixels)
    assert type(back) is type(image) and back.dtype == image.dtype
    assert (back == image).all()


def test_closing_cuts_what_lies_outside():
    taken = opened(torch.rand(3, 2, 2))
    assert taken.closed(taken.pixels + 5).tolist() == torch.ones(3, 2, 2).tolist()


def test_channels_are_counted_before_the_range():
    with pytest.raises(ValueError, match="image must have 3 channels, got shape"):
        opened(torch.full((4, 2, 2), 7.0), channels=3)


def test_a_model_rests_for_a_block_and_is_left_as_it_was():
    model = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="broken"), resting(model):
        assert not model.training
        assert not model(torch.zeros(1, 2)).requires_grad
        raise RuntimeError("broken")
    assert model.training
    assert torch.is_grad_enabled()
