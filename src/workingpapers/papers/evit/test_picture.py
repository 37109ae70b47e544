import numpy as np
import pytest
import torch

from workingpapers.papers.evit.picture import picture

GREY = torch.full((1, 4, 6), 0.5)  # 2 x 3 patches of 2


def test_dropped_patches_fade_and_kept_ones_do_not():
    """Panels are 6 wide with a gap of 8; of the second stage patch 4 and the fused token stay."""
    kept = [torch.tensor([[4, 0, 2]]), torch.tensor([[-1, 4]])]
    drawn = np.asarray(picture(GREY, kept, patch_size=2))
    assert drawn.shape == (4, 6 + 2 * (8 + 6), 3)
    assert (drawn[:, :6] == 128).all()
    assert (drawn[:, 6:14] == 255).all()
    pale = round((0.5 + 0.85 * 0.5) * 255)
    grid = [[panel[y, x, 0] for x in (0, 2, 4)] for panel in (drawn[:, 14:20],) for y in (0, 2)]
    assert grid == [[128, pale, 128], [pale, 128, pale]]
    last = drawn[:, 28:]
    assert [[last[y, x, 0] for x in (1, 3, 5)] for y in (1, 3)] == [[pale] * 3, [pale, 128, pale]]


def test_sample_and_colour():
    image = torch.stack([torch.zeros(4, 6), torch.ones(4, 6), torch.full((4, 6), 2.0)])
    kept = [torch.tensor([[0], [5]])]
    drawn = np.asarray(picture(image, kept, patch_size=2, sample=1, fade=1.0))
    assert drawn[0, 0].tolist() == [0, 255, 255]  # values over 1 are clipped
    assert drawn[3, -1].tolist() == [0, 255, 255]
    assert drawn[0, 14].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 4}, r"multiples of patch_size 4, got shape \(1, 4, 6\)"),
        ({"image": torch.zeros(2, 4, 6)}, "1 or 3 channels"),
        ({"sample": 1}, "sample must be 0 to 0, got 1"),
        ({"kept": [torch.tensor([[6]])]}, "kept must number the 6 patches of image, got 6"),
    ],
)
def test_sizes_that_do_not_go_together_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        picture(**{"image": GREY, "kept": [torch.tensor([[0]])], "patch_size": 2} | arguments)
