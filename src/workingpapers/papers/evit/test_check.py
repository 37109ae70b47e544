import torch

from workingpapers.papers.evit.check import PATCH, SIDE, chance, place


def test_pictures_are_put_whole_on_the_ground_at_patch_borders():
    images = torch.arange(1.0, 1 + 40 * 28 * 28).reshape(40, 1, 28, 28)
    grounds = place(images, torch.Generator().manual_seed(0))
    assert grounds.shape == (40, 1, SIDE, SIDE)
    corners = set()
    for image, ground in zip(images, grounds, strict=True):
        down, along = (ground[0] > 0).nonzero()[0].tolist()
        assert torch.equal(ground[0, down : down + 28, along : along + 28], image[0])
        assert (ground > 0).sum() == 28 * 28
        assert down % PATCH == along % PATCH == 0
        corners.add((down, along))
    assert len(corners) > 10


def test_chance_is_drawn_anew_each_time_and_from_the_seed():
    scores = torch.zeros(3, 5)
    rank, again = chance(1), chance(1)
    first = rank(scores)
    assert torch.equal(again(scores), first)
    assert not torch.equal(rank(scores), first)
