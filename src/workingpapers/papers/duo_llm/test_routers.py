import pytest
import torch
from torch.testing import assert_close

from workingpapers.papers.duo_llm import (
    agreement,
    calibrate,
    oracle,
    patterns,
    routed_loss,
    routes_taken,
    set_route,
    train_router,
)
from workingpapers.papers.duo_llm.method import BIG, SKIP, SMALL, Router
from workingpapers.papers.duo_llm.test_search import IDS, LABELS, tiny

BATCH = (IDS, LABELS)


def text(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(11, (count, 11), generator=generator)
    return ids[:, :-1], ids[:, 1:]


def test_only_routers_learn_and_the_rest_gets_no_gradient():
    model = tiny()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = train_router(model, [BATCH] * 3, 1 / 3)
    assert len(result.losses) == len(result.shares) == 3
    for name, p in model.named_parameters():
        assert p.requires_grad
        if "router" in name:
            assert p.grad is not None and p.grad.abs().max() > 0
        else:
            assert p.grad is None and torch.equal(p, before[name])


def test_the_first_step_is_at_the_budget_and_all_small_below_a_half():
    """Zero weights and the budget's bias: every p is the budget, so no g is 1 yet."""
    model = tiny()
    result = train_router(model, [BATCH], 0.25)
    assert_close(result.shares[0], 0.25)
    expected = routed_loss(model, IDS, LABELS, "small").sum() / 11
    assert_close(result.losses[0], expected.item())


def test_the_gradient_is_that_of_the_soft_mixture_at_the_hard_routes():
    """One layer's bias: d loss / d p times p (1 - p), by differences on the mixing weight."""
    model = tiny()
    for block in model.blocks:
        block.ffn.router = Router(12, budget=0.3)

    def loss(shift):
        def weights(i, u):
            big = torch.full(u.shape[:-1], shift if i == 1 else 0.0)
            return torch.stack([torch.zeros_like(big), 1 - big, big], dim=-1)

        return routed_loss(model, IDS, LABELS, weights).sum().double() / 11

    slope = (loss(1e-2) - loss(-1e-2)) / 2e-2
    train_router(model, [BATCH], 0.3, lr=0.0)
    got = model.blocks[1].ffn.router.linear.bias.grad  # the budget's term has no slope here
    assert_close(got.item(), slope.item() * 0.3 * 0.7, rtol=0.02, atol=1e-5)


@pytest.mark.slow
def test_a_router_learns_to_do_better_than_it_began():
    model = tiny()
    ids, labels = text(8)
    result = train_router(model, [(ids, labels)] * 40, 0.5, lr=0.05)
    assert min(result.losses[-10:]) < result.losses[0]
    assert abs(result.shares[-1] - 0.5) < 0.2


@pytest.mark.slow
def test_the_penalty_holds_the_budget():
    model = tiny()
    off = [
        abs(train_router(model, [text(8)] * 25, 0.3, lr=0.05, penalty=penalty).shares[-1] - 0.3)
        for penalty in (0.0, 1000.0)
    ]
    assert off[1] < 0.02 < off[0]


@pytest.mark.parametrize("budget", [0.0, 1 / 6, 1 / 3, 0.5, 1.0])
def test_the_threshold_meets_the_budget(budget):
    model = tiny()
    ids, labels = text(8)
    train_router(model, [(ids, labels)] * 10, 0.5, lr=0.05)
    used = calibrate(model, ids, budget)
    assert abs(used - budget) <= 1 / (3 * ids.numel())
    set_route(model, "router")
    assert_close((routes_taken(model, ids) == BIG).double().mean().item(), used)


def test_top_k_uses_the_budget_in_every_sequence_and_layer():
    model = tiny()
    ids, labels = text(8)
    train_router(model, [(ids, labels)] * 3, 0.3)
    calibrate(model, ids, 0.3)
    set_route(model, "top-k")
    assert ((routes_taken(model, ids) == BIG).sum(dim=2) == 3).all()


@pytest.mark.slow
@pytest.mark.parametrize("noise", [False, True])
def test_three_ways_and_noise(noise):
    model = tiny(allow_skip=True)
    ids, labels = text(8)
    results = [
        train_router(
            model, [(ids, labels)] * 8, 0.3, ways=3, lr=0.1, noise=noise,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (0, 1, 1)
    ]  # fmt: skip
    assert results[1] == results[2]
    assert (results[0] != results[1]) == noise
    used = calibrate(model, ids, 0.3)
    assert abs(used - 0.3) <= 0.02
    set_route(model, "router")
    assert {SKIP, SMALL, BIG} >= set(routes_taken(model, ids).flatten().tolist())


@pytest.mark.slow
def test_noise_is_that_of_gumbel():
    """At p = 0.3 everywhere, noise makes three tokens of ten BIG; without it, none are."""
    model = tiny()
    ids, labels = text(64)
    without = train_router(model, [(ids, labels)], 0.3)
    small = routed_loss(model, ids, labels, "small").mean().item()
    assert_close(without.losses[0], small)
    seen = []
    original = Router.probabilities

    def watch(self, z):
        p = original(self, z)
        seen.append(p)
        return p

    Router.probabilities = watch
    try:
        train_router(
            model, [(ids, labels)], 0.3, noise=True, generator=torch.Generator().manual_seed(0)
        )
    finally:
        Router.probabilities = original
    noisy = torch.cat([p[..., BIG].flatten() for p in seen[1::2]])
    assert abs((noisy > 0.5).double().mean().item() - 0.3) < 0.03


@pytest.mark.slow
def test_a_taught_router_imitates_the_oracle():
    model = tiny()
    table = patterns(3, 1)
    ids, labels = text(2)

    wanted = oracle(model, ids, labels, table, "independent").routes

    def teacher(*batch):
        assert all(given is known for given, known in zip(batch, (ids, labels), strict=True))
        return wanted

    result = train_router(model, [(ids, labels)] * 50, 1 / 3, teacher=teacher, lr=0.1)
    assert result.losses[-1] < 0.85 * result.losses[0]
    assert_close(result.losses[0], -(torch.tensor([1 / 3, 2 / 3, 2 / 3]).log().mean()).item())
    calibrate(model, ids, 1 / 3)
    set_route(model, "router")
    assert agreement(routes_taken(model, ids), wanted) > 0.65  # 0.56 by chance


def test_routes_taken_are_those_that_were_set():
    model = tiny()
    routes = oracle(model, IDS, LABELS, patterns(3)).routes
    set_route(model, routes)
    assert torch.equal(routes_taken(model, IDS), routes)
    set_route(model, "small")
    assert (routes_taken(model, IDS) == SMALL).all()
    assert all(block.ffn.route == "small" for block in model.blocks)


def test_padding_is_left_out():
    model = tiny()
    ids, labels = text(8)
    train_router(model, [(ids, labels)] * 10, 0.5, lr=0.05)
    counted = torch.ones_like(ids, dtype=torch.bool)
    counted[:, 5:] = False
    used = calibrate(model, ids, 0.5, counted)
    set_route(model, "router")
    taken = routes_taken(model, ids)[:, counted]
    assert abs((taken == BIG).double().mean().item() - 0.5) <= 1.01 / taken.numel()
    assert_close((taken == BIG).double().mean().item(), used)


def test_errors_name_the_cause():
    model = tiny()
    with pytest.raises(ValueError, match=r"budget must be in 0..1, a share of the layers, got 2"):
        train_router(model, [BATCH], 2.0)
    with pytest.raises(ValueError, match="ways must be 2 where a layer must not skip"):
        train_router(model, [BATCH], 0.5, ways=3)
    with pytest.raises(ValueError, match="batches must hold one or more"):
        train_router(model, [], 0.5)
    with pytest.raises(ValueError, match="budget must be in"):
        calibrate(model, IDS, -1.0)
    with pytest.raises(ValueError, match="router in every duo layer"):
        calibrate(tiny(), IDS, 0.5)
