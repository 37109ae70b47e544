import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.papers.evit.method import (
    Shrink,
    attend,
    complement,
    default_locations,
    kept_count,
    original_places,
    place_rates,
    reduce_tokens,
    schedule,
)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_class_row_worked_by_hand():
    """Two heads of one feature: softmax over (1, 1, 2) and over (3, 1, 4), averaged."""
    q = torch.ones(1, 2, 3, 1)
    k = torch.tensor([[1.0, 1.0, 2.0], [3.0, 1.0, 4.0]]).log().reshape(1, 2, 3, 1)
    q[:, :, 1:] = 7.0  # what other tokens look at does not count
    mixed, row = attend(q, k, torch.tensor([1.0, 0.0, 0.0]).expand(1, 2, 3).unsqueeze(-1))
    assert_close(row, torch.tensor([[5 / 16, 3 / 16, 8 / 16]]))
    assert_close(mixed[0, 0], torch.tensor([1 / 4, 3 / 8]))


def test_attention_is_scaled_and_heads_stand_side_by_side():
    q, k, v = (random(2, 3, 5, 4, seed=s) for s in range(3))
    whole = (q @ k.mT / 2).softmax(-1)
    mixed, row = attend(q, k, v)
    assert_close(row, whole[:, :, 0].mean(1))
    assert_close(mixed, torch.cat([(whole @ v)[:, head] for head in range(3)], dim=-1))


def test_with_dropout_the_row_is_that_of_the_attention_that_was_used():
    q, k = random(1, 1, 64, 64) / 4, random(1, 1, 64, 64, seed=1) / 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mixed, row = attend(q, k, torch.eye(64).reshape(1, 1, 64, 64), dropout=0.25)
    assert_close(mixed[:, 0], row)  # with the unit matrix for v the output is the attention
    clean = attend(q, k, k)[1]
    dropped = row == 0
    assert 4 < dropped.sum() < 32
    assert_close(row[~dropped], clean[~dropped] / 0.75)


def test_tokens_worked_by_hand():
    x = torch.tensor([[[9.0], [1.0], [2.0], [3.0], [4.0]]])
    scores = torch.tensor([[0.1, 0.2, 0.05, 0.4]])
    left, kept = reduce_tokens(x, scores, 2)
    assert kept.tolist() == [[3, 1]]  # most attended first
    assert_close(left, torch.tensor([[[9.0], [4.0], [2.0], [0.1 * 1 + 0.05 * 3]]]))
    assert_close(reduce_tokens(x, scores, 2, fuse=False)[0], left[:, :3])


def test_all_prefix_tokens_stay_in_front():
    x = random(2, 9, 4)
    left, _ = reduce_tokens(x, random(2, 6, seed=1).softmax(-1), 2)
    assert_close(left[:, :3], x[:, :3])
    assert left.shape == (2, 6, 4)


def test_equal_scores_fuse_to_the_score_times_the_sum():
    x = random(3, 8, 5)
    left, kept = reduce_tokens(x, torch.full((3, 7), 0.125), 3)
    rest = complement(kept, 7)
    lost = x[:, 1:].gather(1, rest.unsqueeze(-1).expand(-1, -1, 5))
    assert_close(left[:, -1], 0.125 * lost.sum(1))


def test_keeping_all_but_one_fuses_one_into_one():
    x, scores = random(1, 5, 3), torch.tensor([[0.3, 0.1, 0.2, 0.4]])
    left, _ = reduce_tokens(x, scores, 3)
    assert left.shape == x.shape
    assert_close(left[:, -1], 0.1 * x[:, 2])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.data(), st.booleans())
def test_kept_and_dropped_part_the_tokens_at_the_highest_scores(m, data, fuse):
    count = data.draw(st.integers(1, m))
    scores = random(3, m, seed=data.draw(st.integers(0, 99))).softmax(-1)
    left, kept = reduce_tokens(random(3, m + 1, 2), scores, count, fuse=fuse)
    rest = complement(kept, m)
    assert left.shape == (3, 1 + count + fuse, 2)
    assert torch.cat([kept, rest], 1).sort(1).values.tolist() == [list(range(m))] * 3
    stays = scores.gather(1, kept)
    assert (stays.diff(dim=1) <= 0).all()
    if count < m:
        assert (stays.min(1).values >= scores.gather(1, rest).max(1).values).all()


def test_ranking_by_something_else_leaves_the_weights_alone():
    x, scores = random(1, 4, 2), torch.tensor([[0.5, 0.3, 0.2]])
    left, kept = reduce_tokens(x, scores, 1, ranking=torch.tensor([[0.0, 1.0, 2.0]]))
    assert kept.tolist() == [[2]]
    assert_close(left[:, -1], 0.5 * x[:, 1] + 0.3 * x[:, 2])


def test_gradients_reach_kept_and_dropped_tokens_and_the_scores_of_the_dropped():
    x = random(1, 4, 2).requires_grad_()
    scores = torch.tensor([[0.2, 0.5, 0.3]], requires_grad=True)
    reduce_tokens(x, scores, 1)[0].sum().backward()
    assert_close(x.grad[0, :, 0], torch.tensor([1.0, 0.2, 1.0, 0.3]))
    assert_close(scores.grad, torch.stack([x[0, 1].sum(), x.new_zeros(()), x[0, 3].sum()])[None])


def test_without_fusing_dropped_tokens_get_no_gradient():
    x = random(1, 4, 2).requires_grad_()
    reduce_tokens(x, torch.tensor([[0.2, 0.5, 0.3]]), 1, fuse=False)[0].sum().backward()
    assert x.grad[0, :, 0].tolist() == [1.0, 0.0, 1.0, 0.0]


def test_gradients_agree_with_differences():
    x = random(2, 6, 3, dtype=torch.float64).requires_grad_()
    scores = random(2, 5, seed=1, dtype=torch.float64).softmax(-1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, s: reduce_tokens(x, s, 2)[0], (x, scores))


def test_samples_do_not_meet():
    x, scores = random(4, 7, 3), random(4, 6, seed=1).softmax(-1)
    together = reduce_tokens(x, scores, 3)[0]
    alone = [reduce_tokens(x[i : i + 1], scores[i : i + 1], 3)[0] for i in range(4)]
    assert_close(together, torch.cat(alone))


def test_half_precision_scores_may_be_finer_than_the_tokens():
    x = random(1, 5, 4).bfloat16()
    left, _ = reduce_tokens(x, random(1, 4).softmax(-1), 2)
    assert left.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("rate", "n", "count"),
    [(0.7, 196, 138), (0.7, 139, 98), (0.5, 196, 98), (1.0, 5, 5), (0.9, 1, 1), (0.55, 100, 56)],
)
def test_count_is_rounded_up_from_the_float_product(rate, n, count):
    assert kept_count(rate, n) == count


def test_complement_counts_places_up_to_n():
    assert complement(torch.tensor([[4, 0], [1, 2]]), 6).tolist() == [[1, 2, 3, 5], [0, 3, 4, 5]]


def test_schedule_is_one_then_a_cosine_then_the_rate():
    rates = [schedule(t, 4, start=2, epochs=5, keep_rate=0.6) for t in range(40)]
    assert rates[:9] == [1.0] * 9
    assert rates[18] == pytest.approx(0.8)  # half way
    assert rates[13] == pytest.approx(0.6 + 0.4 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[28:] == [0.6] * 12
    assert all(a >= b for a, b in itertools.pairwise(rates))


def test_schedule_for_fine_tuning_jumps():
    assert schedule(0, 100, start=0, epochs=0, keep_rate=0.7) == 0.7


def test_schedule_has_the_defaults_of_the_official_script():
    assert schedule(10 * 7 - 1, 7) == 1.0
    assert schedule(60 * 7, 7) == pytest.approx(0.85)
    assert schedule(110 * 7, 7) == 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -1}, "step must be 0 or more, got -1"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be 1 or more, got 0"),
        ({"start": -2}, "start must be 0 or more, got -2"),
        ({"epochs": -3}, "epochs must be 0 or more, got -3"),
        ({"keep_rate": 0.0}, "keep_rate must be over 0 and at most 1, got 0.0"),
    ],
)
def test_schedule_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(**{"step": 0, "steps_per_epoch": 1} | arguments)


@pytest.mark.parametrize(("depth", "where"), [(12, (3, 6, 9)), (24, (6, 12, 18)), (2, (0, 1))])
def test_locations_are_at_the_quarters(depth, where):
    assert default_locations(depth) == where


def test_rates_find_their_blocks():
    assert place_rates(12, 0.7) == {3: 0.7, 6: 0.7, 9: 0.7}
    assert place_rates(12, [0.9, 0.8, 0.7]) == {3: 0.9, 6: 0.8, 9: 0.7}
    assert place_rates(12, [0.9, 0.8], [5, 1]) == {1: 0.8, 5: 0.9}
    assert place_rates(6, [1, 0.7, 1, 0.7, 0.6, 1]) == {1: 0.7, 3: 0.7, 4: 0.6}
    assert place_rates(6, 1, [2]) == {2: 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((12, 0.0), "keep_rate must be over 0 and at most 1, got 0.0"),
        ((12, 1.2), "keep_rate must be over 0 and at most 1, got 1.2"),
        ((12, [0.7, -1, 0.7]), "keep_rate must be over 0 and at most 1, got -1"),
        ((12, math.nan), "keep_rate must be over 0"),
        ((12, 0.7, [12]), r"locations must be 0 to 11 for 12 blocks, got \(12,\)"),
        ((12, 0.7, [-1]), r"locations must be 0 to 11"),
        ((12, 0.7, [3, 3]), r"locations must differ, got \(3, 3\)"),
        ((12, [0.7, 0.7], None), r"one for each of the 3 locations \(3, 6, 9\), got 2"),
    ],
)
def test_rates_name_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        place_rates(*arguments)


def test_counts_out_of_range_are_errors():
    with pytest.raises(ValueError, match="count must be 1 to 4, the number of image tokens, got 5"):
        reduce_tokens(random(1, 5, 2), random(1, 4), 5)
    with pytest.raises(ValueError, match="got 0"):
        reduce_tokens(random(1, 5, 2), random(1, 4), 0)
    with pytest.raises(ValueError, match="fewer than the 5 tokens of x, and some, got 5"):
        reduce_tokens(random(1, 5, 2), random(1, 5), 2)


def test_places_are_followed_back_to_the_picture():
    """Of 5 patches 4 and 2 stay; then the fused token (place 2) and patch 2; then patch 2."""
    steps = [([4, 2], 5), ([2, 1], 3), ([1], 3)]
    shrinks = [Shrink(n, torch.tensor([kept]), True) for kept, n in steps]
    assert [p.tolist() for p in original_places(shrinks)] == [[[4, 2]], [[-1, 2]], [[2]]]


def test_without_fusing_no_place_is_added():
    shrinks = [Shrink(4, torch.tensor([[3, 0, 1]]), False), Shrink(3, torch.tensor([[2]]), False)]
    assert [p.tolist() for p in original_places(shrinks)] == [[[3, 0, 1]], [[1]]]


def test_attention_row_sums_to_one_over_all_tokens():
    row = attend(*(random(2, 3, 6, 4, seed=s) for s in range(3)))[1]
    assert_close(row.sum(1), torch.ones(2))
    assert F.relu(-row).max() == 0
