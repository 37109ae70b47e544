import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from workingpapers.papers.moduleformer import stick_breaking
from workingpapers.papers.moduleformer.stick_breaking import stick_breaking_attention


def one_by_one(q, k, v, padding=None):
    """(1), (2) and nothing else; q `(batch, heads, queries, d)`."""
    queries, keys = q.shape[-2], k.shape[-2]
    beta = torch.sigmoid(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]))
    if padding is not None:
        beta = beta.masked_fill(padding[:, None, None], 0.0)
    a = torch.zeros_like(beta)
    for i in range(queries):
        left = torch.ones_like(beta[..., 0, 0])
        for j in range(keys - queries + i, -1, -1):
            a[..., i, j] = left * beta[..., i, j]
            left = left * (1 - beta[..., i, j])
    return a @ v, a


def test_worked_by_hand():
    """Logits (0, 1, -1): beta = (0.5, 0.7311, 0.2689), broken from the right."""
    k = torch.tensor([[[[0.0], [1.0], [-1.0]]]])
    out, weights = stick_breaking_attention(torch.ones(1, 1, 1, 1), k, k, need_weights=True)
    assert_close(weights.flatten(), torch.tensor([0.0983, 0.5345, 0.2689]), atol=1e-4, rtol=0)
    assert out.item() == pytest.approx(0.5345 - 0.2689, abs=2e-4)


@settings(max_examples=25, deadline=None)
@given(
    queries=st.integers(1, 40),
    past=st.integers(0, 9),
    slots=st.lists(st.integers(1, 3), max_size=2),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    tile=st.sampled_from([1, 300, 2**18]),
    padded=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_tiles_and_weights_agree_with_the_definition(
    queries, past, slots, scale, tile, padded, seed
):
    torch.manual_seed(seed)
    keys = queries + past
    q = scale * torch.randn(2, *slots, 2, queries, 4, dtype=torch.float64)
    k, v = (torch.randn(2, 2, keys, n, dtype=torch.float64) for n in (4, 3))
    padding = torch.rand(2, keys) < 0.3 if padded else None
    parts = [t.requires_grad_() for t in (q, k, v)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stick_breaking, "_TILE", tile)
        got, _ = stick_breaking_attention(q, k, v, padding)
        weighed, a = stick_breaking_attention(q, k, v, padding, need_weights=True)
        for index in itertools.product(*map(range, slots)):
            where = (slice(None), *index)
            want, weights = one_by_one(q[where], k, v, padding)
            assert_close(got[where], want)
            assert_close(a[where], weights)
        assert_close(weighed, got)
        push = torch.randn_like(got)
        grads = torch.autograd.grad(got, parts, push)
    for grad, want in zip(grads, torch.autograd.grad(weighed, parts, push), strict=True):
        assert_close(grad, want)


def test_weights_sum_to_what_is_taken_and_never_look_ahead():
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 4)
    _, a = stick_breaking_attention(q, k, k, need_weights=True)
    beta = torch.sigmoid(q @ k.transpose(-1, -2) / 2).tril()
    assert (a >= 0).all()
    assert a.triu(1).abs().max() == 0
    assert_close(a.sum(-1) + (1 - beta).prod(-1), torch.ones(2, 3, 7))
    assert_close(a[..., 0, 0], beta[..., 0, 0])


def test_padding_everywhere_gives_zeros_and_finite_gradients():
    q, k = (torch.randn(1, 1, 5, 4, requires_grad=True) for _ in range(2))
    out, _ = stick_breaking_attention(q, k, k, torch.ones(1, 5, dtype=torch.bool))
    assert out.abs().max() == 0
    out.sum().backward()
    assert q.grad.abs().max() == 0
    assert k.grad.isfinite().all()


def test_large_logits_neither_overflow_nor_take_too_much():
    q = torch.full((1, 1, 300, 1), 100.0)
    out, _ = stick_breaking_attention(q, q, torch.ones(1, 1, 300, 1))
    assert_close(out, torch.ones(1, 1, 300, 1))
    long = torch.zeros(1, 1, 2000, 1)  # beta = 1/2: weights 1/2, 1/4, ...
    out, _ = stick_breaking_attention(long[:, :, -1:], long, torch.ones_like(long))
    assert out.item() == pytest.approx(1.0)


def test_half_precision_stays():
    q = torch.randn(1, 1, 6, 4)
    out, _ = stick_breaking_attention(*(3 * [q.to(torch.bfloat16)]))
    assert out.dtype == torch.bfloat16
    assert_close(out.float(), stick_breaking_attention(q, q, q)[0], atol=0.05, rtol=0.05)


def test_memory_for_training_does_not_grow_with_the_square():
    from workingpapers.kit.local_learning import saved_bytes

    q = torch.randn(1, 1, 512, 4, requires_grad=True)
    with saved_bytes(q) as saved:
        stick_breaking_attention(q, q, q)[0].sum().backward()
    assert saved.peak < 512 * 512  # bytes: a quarter of one square of weights


def test_more_queries_than_keys_are_an_error():
    with pytest.raises(ValueError, match="no more queries than there are keys, 2, got 3"):
        stick_breaking_attention(
            torch.zeros(1, 1, 3, 1), torch.zeros(1, 1, 2, 1), torch.zeros(1, 1, 2, 1)
        )
