import copy

import pytest
import torch
from torch.testing import assert_close

from workingpapers.kit.data.fashion_mnist import fashion_mnist
from workingpapers.kit.pretrained import clothes_transformer, cosine, normal


def test_the_rate_rises_for_a_tenth_of_the_steps_and_falls_to_zero():
    shares = [cosine(step, 20) for step in range(20)]
    assert shares[:2] == [0.5, 1.0]
    assert shares[2] == 1.0 and shares == sorted(shares[:2]) + sorted(shares[2:], reverse=True)
    assert cosine(20, 20) == pytest.approx(0)


def test_pictures_are_centred_as_in_training():
    assert_close(
        normal(torch.full((1, 28, 28), 255, dtype=torch.uint8))[0, 0, 0, 0].item(), 0.714 / 0.353
    )


@pytest.mark.data
@pytest.mark.slow
def test_the_transformer_knows_clothes_that_it_has_not_seen():
    state = torch.get_rng_state()
    model = copy.deepcopy(clothes_transformer())
    assert torch.equal(torch.get_rng_state(), state)
    clothes, labels = fashion_mnist(train=False)
    with torch.no_grad():
        right = (model(normal(clothes[:2000])).argmax(-1) == labels[:2000]).float().mean()
    assert right > 0.8
