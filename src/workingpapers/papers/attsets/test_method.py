import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck
from torch.testing import assert_close

from workingpapers.papers.attsets import AttSets, AttSetsConv2d, AttSetsConv3d, AttSetsStream

SETS = given(seed=st.integers(0, 2**20), n=st.integers(1, 9), slots=st.integers(1, 3))


def drawn(seed: int, n: int, slots: int = 1, dim: int = 4, sets: int = 3):
    """A pool with weights of unit size, so that scores are far from equal, and its sets."""
    rng = torch.Generator().manual_seed(seed)
    pool = AttSets(dim, slots)
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return pool, torch.randn(sets, n, dim, generator=rng)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def test_worked_by_hand():
    """W = 1, b = 0: the values (0, ln 3) score (1/4, 3/4); the values (1, 1) score alike."""
    pool = AttSets(2)
    nn.init.eye_(pool.score.weight)
    y, s = pool(torch.tensor([[0.0, 1.0], [math.log(3), 1.0]]), return_scores=True)
    assert_close(y, torch.tensor([0.75 * math.log(3), 1.0]))
    assert_close(s, torch.tensor([[[0.25, 0.5]], [[0.75, 0.5]]]))


def test_slots_lie_side_by_side_and_have_scores_of_their_own():
    pool = AttSets(2, slots=2)
    with torch.no_grad():
        pool.score.weight.copy_(torch.cat([torch.eye(2), torch.zeros(2, 2)]))
    x = torch.tensor([[0.0, 1.0], [math.log(3), 3.0]])
    first = [0.75 * math.log(3), (1 + 3 * math.e**2) / (1 + math.e**2)]
    assert_close(pool(x), torch.tensor([*first, math.log(3) / 2, 2.0]))


def test_initialised_as_in_the_official_code():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pools = AttSets(3), AttSetsConv2d(3, 3), AttSetsConv3d(3, 3)
    for pool, bound in zip(pools, (1, 1 / 3, 27**-0.5), strict=True):
        assert pool.score.bias.abs().max() == 0
        assert 0.75 * bound < pool.score.weight.abs().max() <= bound  # torch's own is 0.58 of it


@settings(deadline=None, max_examples=25)
@SETS
def test_the_order_of_a_set_moves_the_scores_and_not_the_answer(seed, n, slots):
    pool, x = drawn(seed, n, slots)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    y, s = pool(x, return_scores=True)
    y_moved, s_moved = pool(x[:, order], return_scores=True)
    assert_close(y_moved, y, rtol=1e-5, atol=1e-6)
    assert_close(s_moved, s[:, order])


@settings(deadline=None, max_examples=25)
@SETS
def test_every_feature_is_a_mixture_of_that_feature(seed, n, slots):
    pool, x = drawn(seed, n, slots)
    y, s = pool(x, return_scores=True)
    assert s.shape == (3, n, slots, 4)
    assert s.min() >= 0
    assert_close(s.sum(dim=1), torch.ones(3, slots, 4))
    low, high = x.amin(1).repeat(1, slots), x.amax(1).repeat(1, slots)
    assert ((low - 1e-6 <= y) & (y <= high + 1e-6)).all()


@settings(deadline=None, max_examples=25)
@SETS
def test_masked_looped_segmented_and_streamed_sets_agree(seed, n, slots):
    rng = torch.Generator().manual_seed(seed + 1)
    sizes = torch.randint(1, n + 1, (3,), generator=rng)
    pool, x = drawn(seed, n, slots)
    mask = torch.arange(n) < sizes[:, None]
    x = x.masked_fill(~mask[..., None], math.nan)
    looped = torch.stack([pool(x[i, :size]) for i, size in enumerate(sizes)])
    scored = torch.cat([pool(x[i, :size], return_scores=True)[1] for i, size in enumerate(sizes)])
    assert_close(pool(x, mask), looped)
    order = torch.randperm(int(sizes.sum()), generator=rng)  # an index need not be sorted
    index = torch.arange(3).repeat_interleave(sizes)[order]
    y, s = pool.segment(x[mask][order], index, return_scores=True)
    assert_close(y, looped)
    assert_close(s, scored[order])
    stream = pool.stream()
    cut = seed % (n + 1)
    stream.add(x[:, :cut], mask[:, :cut]).add(x[:, cut:], mask[:, cut:])
    assert_close(stream.result(), looped)


@settings(deadline=None, max_examples=25)
@SETS
def test_a_doubled_set_answers_the_same_and_a_uniform_one_its_element(seed, n, slots):
    pool, x = drawn(seed, n, slots)
    assert_close(pool(torch.cat([x, x], dim=1)), pool(x))
    assert_close(pool(x[:, :1].expand(-1, n, -1)), x[:, 0].repeat(1, slots))


def test_set_of_one_passes_through_exactly_and_trains_no_scores():
    """What makes FASet's first stage safe."""
    pool, x = drawn(0, 1, slots=2)
    assert torch.equal(pool(x), x[:, 0].repeat(1, 2))
    pool(x).square().sum().backward()
    assert pool.score.weight.grad.abs().max() == 0
    assert torch.equal(pool.segment(x[:, 0], torch.arange(3)), x[:, 0].repeat(1, 2))
    assert torch.equal(pool.stream().add(x).result(), x[:, 0].repeat(1, 2))


def test_equal_scores_are_mean_pooling():
    pool, x = drawn(0, 5)
    nn.init.zeros_(pool.score.weight)
    assert_close(pool(x), x.mean(dim=1))


def test_the_bias_changes_nothing():
    pool, x = drawn(0, 5, slots=2)
    before = pool(x)
    nn.init.uniform_(pool.score.bias, -3, 3)
    assert_close(pool(x), before)


@pytest.mark.parametrize(("c", "limit"), [(200.0, torch.amax), (-200.0, torch.amin)])
def test_steep_scores_tend_to_the_largest_and_to_the_least(c, limit):
    pool, x = drawn(0, 5)
    with torch.no_grad():
        pool.score.weight.copy_(c * torch.eye(4))
    assert_close(pool(x), limit(x, 1), rtol=0, atol=2e-2)


def test_huge_activations_stay_finite_in_every_form():
    pool, x = drawn(0, 5)
    with torch.no_grad():
        pool.score.weight.mul_(1e4)
    index = torch.arange(3).repeat_interleave(5)
    for y in (pool(x), pool.segment(x.flatten(0, 1), index), pool.stream().add(x).result()):
        assert y.isfinite().all()


def test_absent_elements_have_no_influence_and_no_gradient():
    pool, x = drawn(0, 5)
    x = x.requires_grad_()
    mask = torch.tensor([[True, True, False, True, False]] * 3)
    pool(x, mask).square().sum().backward()
    assert x.grad[:, [2, 4]].abs().max() == 0
    assert x.grad[:, [0, 1, 3]].abs().min() > 0
    padded = torch.full((3, 5, 4), math.nan)
    padded[mask] = x.detach()[mask]
    pool.zero_grad()
    pool(padded, mask).sum().backward()
    assert pool.score.weight.grad.isfinite().all()
    assert pool(padded, mask, return_scores=True)[1][:, [2, 4]].abs().max() == 0


def test_gradients_are_right_in_every_form():
    pool, x = drawn(3, 4, slots=2, dim=3, sets=2)
    pool, x = pool.double(), x.double().requires_grad_()
    mask = torch.tensor([[True, True, False, True], [True, True, True, True]])
    index = torch.tensor([1, 0, 0, 1, 1, 1, 0, 1])
    weight = pool.score.weight

    def streamed(x, _):
        stream = AttSetsStream(pool)
        return stream.add(x[:, :3], mask[:, :3]).add(x[:, 3:], mask[:, 3:]).result()

    assert gradcheck(lambda x, _: pool(x, mask), (x, weight))
    assert gradcheck(lambda x, _: pool.segment(x.flatten(0, 1), index), (x, weight))
    assert gradcheck(streamed, (x, weight))


def test_convolutional_forms_score_every_position(rng):
    """A kernel of 1 is AttSets at each position; W is then the kernel."""
    for conv, space in ((AttSetsConv2d(3), (4, 5)), (AttSetsConv3d(3), (2, 3, 4))):
        x = torch.randn(2, 6, 3, *space, generator=rng)
        pool = AttSets(3)
        with torch.no_grad():
            pool.score.weight.copy_(conv.score.weight.flatten(1))
        y, s = conv(x, return_scores=True)
        assert_close(y, pool(x.movedim(2, -1).movedim(1, -2)).movedim(-1, 1))
        assert_close(s.sum(dim=1), torch.ones_like(y))
        mask = torch.tensor([[True] * 4 + [False] * 2] * 2)
        assert_close(conv(x.index_fill(1, torch.tensor([4, 5]), math.nan), mask), conv(x[:, :4]))
        assert torch.equal(conv(x[:, :1]), x[:, 0])


def test_a_wider_kernel_keeps_the_size_and_sees_the_neighbours(rng):
    conv = AttSetsConv2d(1, kernel_size=3)
    with torch.no_grad():  # the score of a position is its right neighbour
        conv.score.weight.zero_()[0, 0, 1, 2] = 1
    x = torch.zeros(1, 2, 1, 1, 3)
    x[0, :, 0, 0] = torch.tensor([[1.0, 0.0, 5.0], [2.0, math.log(3), 7.0]])
    y = conv(x)
    assert_close(y.flatten(), torch.tensor([(1 + 2 * 3) / 4, y[0, 0, 0, 1].item(), 6.0]))


def test_weights_in_the_official_layout_load(rng):
    w, b = torch.randn(3, 6, generator=rng), torch.randn(6, generator=rng)
    pool = AttSets.from_official({"scope/att_1st_w:0": w.numpy(), "scope/att_1st_b:0": b.numpy()})
    assert (pool.dim, pool.slots) == (3, 2)
    x = torch.randn(2, 4, 3, generator=rng)
    s = (x @ w + b).reshape(2, 4, 2, 3).softmax(dim=1)
    assert_close(pool(x), (x[:, :, None] * s).sum(dim=1).flatten(1))
    assert AttSets.from_official({"att_1st_w": w}).score.bias is None
    with pytest.raises(ValueError, match=r"att_1st_w must be \(dim, slots \* dim\).*\(6, 3\)"):
        AttSets.from_official({"att_1st_w": w.t()})
    with pytest.raises(ValueError, match="state must hold 'att_1st_w', got nothing"):
        AttSets.from_official({})
    with pytest.raises(ValueError, match=r"att_1st_b must have shape \(6,\), got \(5,\)"):
        AttSets.from_official({"att_1st_w": w, "att_1st_b": b[:5]})
    with pytest.raises(ValueError, match="'att_1st_w' once"):
        AttSets.from_official({"a/att_1st_w": w, "b/att_1st_w": w})


def test_lower_precision_around_it_keeps_every_form_working():
    pool, x = drawn(0, 5)
    index = torch.arange(3).repeat_interleave(5)
    want = pool(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for y in (pool(x), pool.segment(x.flatten(0, 1), index), pool.stream().add(x).result()):
            assert_close(y, want, rtol=0.1, atol=0.1)


def test_errors_name_the_cause():
    pool = AttSets(3)
    x = torch.zeros(4, 5, 3)
    with pytest.raises(ValueError, match=r"3 features last, got 7 in shape \(4, 5, 7\)"):
        pool(torch.zeros(4, 5, 7))
    with pytest.raises(ValueError, match=r"with a set axis, got shape \(3,\)"):
        pool(torch.zeros(3))
    with pytest.raises(ValueError, match=r"at least one element a set, got sets of shape \(4, 0\)"):
        pool(torch.zeros(4, 0, 3))
    with pytest.raises(TypeError, match=r"x must be a floating-point tensor, got torch.int64"):
        pool(torch.zeros(4, 5, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"mask must be boolean, .* got torch.float32"):
        pool(x, torch.ones(4, 5))
    with pytest.raises(ValueError, match=r"mask must have shape \(4, 5\) as x has, got \(4, 6\)"):
        pool(x, torch.ones(4, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask must leave every set at least one.*got 2 empty"):
        pool(x, torch.tensor([True, False, True, False])[:, None].expand(4, 5))
    for arguments in ((0,), (3, 0)):
        with pytest.raises(ValueError, match="dim and slots must be positive"):
            AttSets(*arguments)


def test_segment_errors_name_the_cause():
    pool, x = AttSets(3), torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"index must lie in 0 to 1, got 0 to 2"):
        pool.segment(x, torch.tensor([0, 1, 2, 0]), 2)
    with pytest.raises(ValueError, match=r"index must lie in 0 to 0, got -1 to 0"):
        pool.segment(x, torch.tensor([0, -1, 0, 0]))
    with pytest.raises(ValueError, match="each of the 4 sets at least one element, got 2 empty"):
        pool.segment(x, torch.tensor([0, 2, 2, 0]), 4)
    with pytest.raises(ValueError, match="each of the 0 sets"):
        pool.segment(x[:0], torch.zeros(0, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"index must be an integer tensor, .* got torch.float32"):
        pool.segment(x, torch.zeros(4))
    with pytest.raises(ValueError, match=r"index must have shape \(4,\) as x has, got \(3,\)"):
        pool.segment(x, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"x must be \(total, 3\), got shape \(2, 4, 3\)"):
        pool.segment(torch.zeros(2, 4, 3), torch.zeros(4, dtype=torch.int64))


def test_empty_segments_may_answer_zeros():
    pool, x = drawn(0, 4, slots=2, sets=1)
    y = pool.segment(x[0], torch.tensor([2, 2, 0, 2], dtype=torch.int32), 5, allow_empty=True)
    assert y.shape == (5, 8)
    assert y[[1, 3, 4]].abs().max() == 0
    assert_close(y[2], pool(x[0, [0, 1, 3]]))


def test_stream_errors_name_the_cause():
    pool = AttSets(3)
    with pytest.raises(ValueError, match="stream must get at least one element a set, got none"):
        pool.stream().result()
    nothing = torch.tensor([[True, True], [False, False]])
    stream = pool.stream().add(torch.ones(2, 2, 3), nothing)
    with pytest.raises(ValueError, match="at least one element a set, got 1 empty"):
        stream.result()
    with pytest.raises(ValueError, match=r"x must be \(2, n, 3\) as the first call had it"):
        stream.add(torch.ones(3, 2, 3))
    with pytest.raises(TypeError, match="mask must be boolean"):
        stream.add(torch.ones(2, 2, 3), torch.ones(2, 2))
    assert_close(stream.add(torch.ones(2, 1, 3)).result(), torch.ones(2, 3))


def test_convolution_errors_name_the_cause():
    with pytest.raises(ValueError, match=r"kernel_size must be odd.* got 2"):
        AttSetsConv2d(3, 2)
    with pytest.raises(ValueError, match="channels must be positive, got 0"):
        AttSetsConv3d(0)
    with pytest.raises(ValueError, match=r"x must be \(batch, n, 3, h, w\), got shape \(2, 3, 4\)"):
        AttSetsConv2d(3)(torch.zeros(2, 3, 4))
    with pytest.raises(
        ValueError, match=r"x must be \(batch, n, 3, d, h, w\), got shape \(1, 2, 4"
    ):
        AttSetsConv3d(3)(torch.zeros(1, 2, 4, 1, 1, 1))
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch.int64"):
        AttSetsConv2d(3)(torch.zeros(1, 2, 3, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least one element"):
        AttSetsConv2d(3)(torch.zeros(1, 0, 3, 4, 4))
