import pytest
import torch

from workingpapers.kit.strip import GAP, Strip


def test_panels_stand_side_by_side_with_white_between_them():
    dark, bright = torch.zeros(3, 2, 3), torch.full((3, 2, 5), 7.0)
    drawn = Strip({"a": dark, "b": bright}, "").drawn()
    assert drawn.shape == (2, 3 + GAP + 5, 3)
    assert drawn.dtype == torch.uint8
    assert (drawn[:, :3] == 0).all()
    assert (drawn[:, 3:] == 255).all()


def test_channels_stay_in_their_order():
    red = torch.zeros(3, 1, 1)
    red[0] = 0.5
    assert Strip({"red": red}, "").drawn().tolist() == [[[128, 0, 0]]]


@pytest.mark.parametrize("panels", [{}, {"a": torch.zeros(3, 2, 3), "b": torch.zeros(3, 4, 3)}])
def test_panels_of_no_common_height_are_refused(panels):
    with pytest.raises(ValueError, match="panels: expected one height"):
        Strip(panels, "").drawn()
