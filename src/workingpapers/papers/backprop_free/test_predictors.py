import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.papers.backprop_free import descend, least_squares, sparsemax, sparsemax_loss


def scores(seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(6, 5, generator=g)


def test_sparsemax_worked_by_hand():
    """2 and 1.5 stay: tau = (3.5 - 1) / 2 = 1.25; the loss adds 1/2 for each of 3 classes."""
    z = torch.tensor([[2.0, 1.5, -1.0]])
    assert_close(sparsemax(z), torch.tensor([[0.75, 0.25, 0.0]]))
    expected = -2 + 0.5 * (4 - 1.25**2) + 0.5 * (1.5**2 - 1.25**2) + 1.5
    assert sparsemax_loss(z, torch.tensor([0])).item() == pytest.approx(expected)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), shift=st.floats(-5, 5))
def test_sparsemax_gives_probabilities_that_a_shift_leaves_alone(seed, shift):
    z = scores(seed)
    p = sparsemax(z)
    assert_close(p.sum(dim=1), torch.ones(6)), p.min() >= 0
    assert p.min() >= 0
    assert_close(sparsemax(z + shift), p, rtol=1e-5, atol=1e-5)
    nearest = sparsemax(p)  # probabilities are their own projection
    assert_close(nearest, p, rtol=1e-5, atol=1e-6)


def test_gradient_of_the_loss_is_probability_less_label():
    z = scores(0).requires_grad_()
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    loss = sparsemax_loss(z, y)
    (grad,) = torch.autograd.grad(6 * loss, z)
    onehot = F.one_hot(y, 5).float()
    assert_close(grad, sparsemax(z) - onehot)
    assert_close(sparsemax_loss(z, onehot), loss)
    assert torch.autograd.gradcheck(
        lambda z: sparsemax_loss(z, y), scores(1).double().requires_grad_()
    )


def test_closed_form_solves_its_equations_from_any_batches():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 12, generator=g), torch.randint(3, (200,), generator=g)
    w = least_squares([(x, y)], 3)
    assert (x.T @ (x @ w - F.one_hot(y, 3))).abs().max() < 1e-3
    split = zip(x.split(64), y.split(64), strict=True)
    assert_close(least_squares(split, 3), w, rtol=1e-4, atol=1e-5)
    damped = least_squares([(x, y)], 3, ridge=10)
    assert (x.T @ (x @ damped - F.one_hot(y, 3)) + 10 * damped).abs().max() < 1e-3


def test_closed_form_falls_back_to_the_pseudoinverse():
    x = torch.tensor([[1.0, 1.0], [2.0, 2.0]])  # X^T X is singular
    w = least_squares([(x, torch.tensor([0, 1]))], 2)
    assert w.isfinite().all()
    assert_close(w, torch.linalg.pinv(x) @ torch.eye(2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("link", ["softmax", "sparsemax"])
def test_descent_is_gradient_descent_from_ones(link):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(10, 4, generator=g), torch.randint(3, (10,), generator=g)
    w = torch.ones(4, 3, requires_grad=True)
    for _ in range(2):
        for part in (slice(0, 5), slice(5, 10)):
            z = x[part] @ w
            loss = F.cross_entropy(z, y[part]) if link == "softmax" else sparsemax_loss(z, y[part])
            (grad,) = torch.autograd.grad(loss, w)
            with torch.no_grad():
                w -= 0.05 * (grad + 0.01 * w)
    got = descend(x, y, 3, epochs=2, batches=2, step=0.05, decay=0.01, link=link)
    assert_close(got, w.detach())


def test_descent_ignores_a_decay_that_the_released_code_ignores():
    x, y = torch.randn(10, 4), torch.arange(10) % 3
    assert torch.equal(descend(x, y, 3, epochs=3, decay=1e-4), descend(x, y, 3, epochs=3))
    assert not torch.equal(descend(x, y, 3, epochs=3, decay=2e-4), descend(x, y, 3, epochs=3))


def test_bad_input_is_named():
    x, y = torch.randn(4, 2), torch.arange(4) % 2
    with pytest.raises(ValueError, match="ridge must not be negative, got -1"):
        least_squares([(x, y)], 2, ridge=-1)
    with pytest.raises(ValueError, match="batches must hold at least one batch, got none"):
        least_squares([], 2)
    with pytest.raises(ValueError, match="link must be one of softmax, sparsemax, got 'tanh'"):
        descend(x, y, 2, link="tanh")
