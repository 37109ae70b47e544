import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.papers.duo_llm import (
    DuoConfig,
    DuoFFN,
    DuoLM,
    Router,
    duo_layers,
    patterns,
    random_routes,
    route,
    set_route,
)
from workingpapers.papers.duo_llm.method import BIG, MLP, SKIP, SMALL
from workingpapers.papers.duo_llm.routes import pattern_cost


def relu_layer(w1, w2):
    layer = MLP(2, len(w1), activation=F.relu, bias=False)
    with torch.no_grad():
        layer.fc1.weight.copy_(torch.tensor(w1))
        layer.fc2.weight.copy_(torch.tensor(w2))
    return layer


def worked_layers():
    """The two layers of the worked example; no norms, no attention."""
    return [
        DuoFFN(
            relu_layer([[1.0, 0], [0, 1], [1, -1]], [[0.5, 0, 1], [0, 0.5, -1]]),
            relu_layer([[1.0, 1]], [[0.25], [-0.25]]),
            allow_skip=True,
        ),
        DuoFFN(
            relu_layer([[1.0, -1], [0, 1], [-1, 0]], [[1, 0, 0], [0, -0.5, 1.0]]),
            relu_layer([[0.0, 1]], [[0.5], [0.1]]),
            allow_skip=True,
        ),
    ]


KINDS = {"K": SKIP, "S": SMALL, "B": BIG}
WORKED = {
    "SS": ((2.375, 1.375), (0.33797, 1.33797, 3.71297)),
    "SB": ((2.25, 0.625), (0.19694, 1.82194, 4.07194)),
    "BS": ((3.0, 3.3), (0.88255, 0.58255, 3.58255)),
    "BB": ((1.5, 1.5), (0.79892, 0.79892, 2.29892)),
    "KK": ((1, 2), (1.55144, 0.55144, 1.55144)),
    "BK": ((1.5, 3), (1.86898, 0.36898, 1.86898)),
    "KB": ((1, 1), (0.86199, 0.86199, 1.86199)),
    "SK": ((1.75, 1.25), (0.53762, 1.03762, 2.78762)),
    "KS": ((2, 2.2), (0.86991, 0.66991, 2.66991)),
}


def tiny(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = DuoConfig(vocab_size=11, dim=12, layers=3, heads=3, context=10, **options)
        model = DuoLM(config).eval()
        for p in model.parameters():  # far from symmetric
            nn.init.normal_(p, std=0.3)
        return model


IDS = torch.tensor([[1, 5, 2, 7, 3, 0], [4, 4, 9, 0, 10, 6]])


@pytest.mark.parametrize("name", WORKED)
def test_states_and_losses_worked_by_hand(name):
    x = torch.tensor([[1.0, 2.0]])
    for layer, kind in zip(worked_layers(), name, strict=True):
        x = (x + layer(x, torch.tensor([KINDS[kind]]))).detach()
    state, losses = WORKED[name]
    assert_close(x[0], torch.tensor(state, dtype=torch.float32))
    z = x @ torch.tensor([[1.0, 0], [0, 1], [-1, 1]]).T
    got = torch.tensor([F.cross_entropy(z, torch.tensor([y])) for y in range(3)])
    assert_close(got, torch.tensor(losses), atol=1e-5, rtol=0)


def test_each_token_takes_its_own_route():
    layer = worked_layers()[0]
    u = torch.tensor([[[1.0, 2]] * 3])
    y = u + layer(u, torch.tensor([[BIG, SMALL, SKIP]]))
    assert_close(y, torch.tensor([[[1.5, 3.0], [1.75, 1.25], [1, 2]]]))


def test_weights_mix_the_three_routes():
    layer = worked_layers()[0]
    u = torch.tensor([[1.0, 2]])
    y = layer(u, torch.tensor([[0.5, 0.3, 0.2]]))
    assert_close(y, torch.tensor([[0.3 * 0.75 + 0.2 * 0.5, 0.3 * -0.75 + 0.2 * 1.0]]))


def test_router_worked_by_hand_starts_at_its_budget():
    router = Router(2)
    with torch.no_grad():
        router.linear.weight.copy_(torch.tensor([[0.3, -0.1]]))
        router.linear.bias.fill_(0.2)
    assert_close(router(torch.tensor([1.0, 2]))[BIG].item(), 0.574443, atol=1e-6, rtol=0)
    assert router.choose(torch.tensor([[1.0, 2], [-3.0, 0]])).tolist() == [BIG, SMALL]
    for ways in (2, 3):
        p = Router(4, ways, budget=0.2)(torch.randn(3, 4))
        assert_close(p[:, BIG], torch.full((3,), 0.2))
        assert_close(p.sum(dim=1), torch.ones(3))


def test_top_k_gives_big_to_the_likeliest_share_of_each_sequence():
    router = Router(1, budget=0.5)
    with torch.no_grad():
        router.linear.weight.fill_(1.0)
    u = torch.tensor([[[3.0], [1], [2], [0]], [[0], [1], [2], [9.0]]])
    expected = [[BIG, SMALL, BIG, SMALL], [SMALL, SMALL, BIG, BIG]]
    assert router.choose_most(u).tolist() == expected


def test_all_big_all_small_and_skip_are_the_layers_themselves():
    model = tiny(allow_skip=True)
    ffn = model.blocks[0].ffn
    u = torch.randn(2, 5, 12)
    for name, kind, expected in (
        ("big", BIG, ffn.big(u)),
        ("small", SMALL, ffn.small(u)),
        ("skip", SKIP, torch.zeros_like(u)),
    ):
        assert torch.equal(ffn(u, name), expected)
        assert torch.equal(ffn(u, torch.full((2, 5), kind)), expected)
        routes = torch.full((3, 2, 6), kind, dtype=torch.int8)
        assert torch.equal(model(IDS, routes), model(IDS, name))


def test_a_layer_that_no_token_uses_gets_no_gradient():
    model = tiny()
    routes = torch.full((3, 2, 6), SMALL, dtype=torch.int8)
    routes[1, 0, 2] = BIG
    model(IDS, routes).square().sum().backward()
    grads = [
        [
            max((p.grad.abs().max() if p.grad is not None else 0) for p in m.parameters()) > 0
            for m in (b.ffn.big, b.ffn.small)
        ]
        for b in model.blocks
    ]
    assert grads == [[False, True], [True, True], [False, True]]


def test_gradients_through_mixed_routes_are_right():
    layer = worked_layers()[0].double()
    u = torch.tensor([[0.7, 2.0], [-1.0, 0.3], [1.1, 0.2]], dtype=torch.float64)
    route_ = torch.tensor([BIG, SMALL, SKIP])
    assert torch.autograd.gradcheck(lambda u: layer(u, route_), u.requires_grad_())


@pytest.mark.parametrize("skip", ["ffn", "layer"])
def test_a_token_depends_on_no_later_token_nor_its_route(skip):
    model = tiny(allow_skip=True, skip=skip)
    routes = random_routes(3, 2, 6, (0.3, 0.3, 0.4), torch.Generator().manual_seed(0))
    before = model(IDS, routes)
    ids, changed = IDS.clone(), routes.clone()
    ids[:, 4] = 8
    changed[:, :, 4] = (changed[:, :, 4] + 1) % 3
    after = model(ids, changed)
    assert_close(after[:, :4], before[:, :4])
    assert (after[:, 4:] - before[:, 4:]).abs().amin(dim=(0, 2)).min() > 0


def test_skipping_a_layer_leaves_its_attention_out_but_not_its_keys():
    model = tiny(allow_skip=True, skip="layer")
    x = torch.randn(1, 4, 12)
    block = model.blocks[0]
    block.ffn.route = torch.tensor([[BIG, SKIP, SMALL, BIG]])
    y = block(x)
    assert torch.equal(y[:, 1], x[:, 1])
    moved = x.clone()
    moved[:, 1, 0] += 1  # of one number alone, as the norm hides what moves them all
    assert (block(moved)[:, 2] - y[:, 2]).abs().max() > 1e-4
    assert torch.equal(model(IDS, "skip"), model.read(model.embed(IDS)))
    plain = tiny(allow_skip=True)
    assert not torch.equal(plain(IDS, "skip"), model(IDS, "skip"))


def test_a_model_keeps_its_route_and_gets_it_back():
    model = tiny()
    big = model(IDS)
    set_route(model, "small")
    small = model(IDS)
    assert not torch.equal(big, small)
    with route(model, "big"):
        assert torch.equal(model(IDS), big)
    with pytest.raises(KeyError), route(model, "big"):
        raise KeyError
    assert torch.equal(model(IDS), small)


def test_a_function_of_layer_and_stream_routes():
    model = tiny()
    third = model(IDS, lambda i, u: torch.full(u.shape[:-1], BIG if i == 2 else SMALL))
    routes = torch.full((3, 2, 6), SMALL)
    routes[2] = BIG
    assert_close(third, model(IDS, routes))


def test_random_routing_follows_its_generator():
    model = tiny(allow_skip=True)

    def answer(seed):
        with route(
            model, "random", p=(0.2, 0.4, 0.4), generator=torch.Generator().manual_seed(seed)
        ):
            return model(IDS)

    assert torch.equal(answer(1), answer(1))
    assert not torch.equal(answer(1), answer(2))


def test_random_routes_have_the_chances_asked_for():
    generator = torch.Generator().manual_seed(0)
    routes = random_routes(5, 40, 50, (0.2, 0.5, 0.3), generator)
    share = routes.flatten().long().bincount(minlength=3) / routes.numel()
    assert_close(share, torch.tensor([0.2, 0.5, 0.3]), atol=0.02, rtol=0)
    assert set(random_routes(5, 4, 5, generator=generator).flatten().tolist()) == {SMALL, BIG}
    assert routes.dtype == torch.int8
    assert (routes[0] != routes[1]).any() and (routes[:, 0] != routes[:, 1]).any()


def test_random_routes_with_a_number_of_big_layers():
    generator = torch.Generator().manual_seed(0)
    routes = random_routes(6, 30, 40, generator=generator, k=2)
    assert ((routes == BIG).sum(dim=0) == 2).all()
    share = (routes == BIG).double().mean(dim=(1, 2))
    assert_close(share, torch.full((6,), 1 / 3, dtype=torch.float64), atol=0.05, rtol=0)
    number = (random_routes(6, 200, 4, generator=generator, k="any") == BIG).sum(dim=0)
    assert (number == number[:, :1]).all()
    assert set(number[:, 0].tolist()) == set(range(7))


@given(st.integers(1, 6), st.data())
@settings(max_examples=40, deadline=None)
def test_patterns_are_all_that_fit_the_budget_the_cheapest_first(layers, data):
    ways = data.draw(st.sampled_from([2, 3]))
    k = data.draw(st.none() | st.integers(0, layers))
    dearest = data.draw(st.none() | st.floats(layers / 8, layers))
    every = torch.cartesian_prod(*[torch.arange(3 - ways, 3)] * layers).view(-1, layers)
    if k is not None:
        every = every[(every == BIG).sum(dim=1) == k]
    if dearest is not None:
        every = every[pattern_cost(every, 1 / 8) <= dearest + 1e-9]
    if not len(every):
        with pytest.raises(ValueError, match="max_cost must leave"):
            patterns(layers, k, ways, max_cost=dearest)
        return
    got = patterns(layers, k, ways, max_cost=dearest)
    assert sorted(got.tolist()) == sorted(every.tolist())
    cost = pattern_cost(got, 1 / 8).tolist()
    ranks = list(zip([round(c, 6) for c in cost], got.tolist(), strict=True))
    assert ranks == sorted(ranks)


def test_sampled_patterns_keep_the_budget_and_do_not_repeat():
    generator = torch.Generator().manual_seed(0)
    got = patterns(30, 4, 3, sample=50, max_cost=5.0, generator=generator)
    assert len(got.unique(dim=0)) == 50
    assert ((got == BIG).sum(dim=1) == 4).all()
    assert (pattern_cost(got, 1 / 8) <= 5.0).all()
    assert len(patterns(3, 1, sample=10, generator=generator)) == 3


def test_errors_name_the_cause():
    model = tiny()
    ffn = model.blocks[0].ffn
    u = torch.zeros(2, 3, 12)
    with pytest.raises(ValueError, match=r"route must be in 0..2, got 1..3"):
        ffn(u, torch.tensor([[1, 2, 3]] * 2))
    with pytest.raises(ValueError, match=r"route must be \(2, 3\), one a token, got \(3, 2\)"):
        ffn(u, torch.ones(3, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="allow_skip=True"):
        ffn(u, torch.tensor([[1, 0, 2]] * 2))
    with pytest.raises(ValueError, match="allow_skip=True"):
        ffn(u, "skip")
    with pytest.raises(ValueError, match="needs a router"):
        ffn(u, "router")
    with pytest.raises(ValueError, match="got 'huge'"):
        ffn(u, "huge")
    with pytest.raises(ValueError, match=r"\(2, 3, 3\), weights, got \(2, 3, 2\)"):
        ffn(u, torch.ones(2, 3, 2))
    with pytest.raises(TypeError, match="must come to a tensor, got list"):
        ffn(u, lambda u: [1])
    with pytest.raises(ValueError, match=r"routes must be \(3, batch, tokens\), got \(2, 2, 6\)"):
        set_route(model, torch.ones(2, 2, 6, dtype=torch.int8))
    with pytest.raises(ValueError, match="whole numbers"):
        set_route(model, torch.ones(3, 2, 6))
    with pytest.raises(ValueError, match="three chances"):
        random_routes(2, 2, 2, (0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"k must be in 0..3, the number of layers, got 4"):
        patterns(3, 4)
    with pytest.raises(ValueError, match=r"k must be in 0..2"):
        random_routes(2, 1, 1, k=-1)
    with pytest.raises(ValueError, match="exclude each other"):
        random_routes(2, 1, 1, (0.0, 0.5, 0.5), k=1)
    with pytest.raises(ValueError, match='mode="coordinate"'):
        patterns(17)
    with pytest.raises(ValueError, match="ways must be 2 or 3, got 4"):
        patterns(3, ways=4)
    with pytest.raises(ValueError, match="sample must be 1"):
        patterns(3, sample=0)
    with pytest.raises(ValueError, match="Linear"):
        duo_layers(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="multiple of heads, got 10 and 4"):
        DuoConfig(vocab_size=3, dim=10)
    with pytest.raises(ValueError, match="'ffn' or 'layer'"):
        DuoConfig(vocab_size=3, skip="all")
    with pytest.raises(ValueError, match="layers must be 1 or more"):
        DuoConfig(vocab_size=3, layers=0)
    with pytest.raises(ValueError, match="at most 10 long, got 11"):
        model(torch.zeros(1, 11, dtype=torch.long))
