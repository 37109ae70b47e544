import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.kit.local_learning import (
    Backprop,
    LocalClassifier,
    LocalTrainer,
    PhasedTrainer,
    assert_isolated,
    saved_bytes,
    train,
)
from workingpapers.papers.backprop_free import MonoForward, MonoForwardNet
from workingpapers.papers.backprop_free.backprop import AdamW


@pytest.fixture
def net() -> MonoForwardNet:
    torch.manual_seed(0)
    return MonoForwardNet(12, hidden=(16, 14), n_classes=5)


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(1)
    return torch.randn(40, 12, generator=g), torch.arange(40) % 5


def own(layer: int) -> list[str]:
    """The parameters that layer's loss may train; layer 0 is the input."""
    return [f"class_matrices.{layer}."] + ([f"layers.{layer - 1}."] if layer else [])


def test_goodness_and_loss_worked_by_hand():
    """x = 2, w = 3, b = -1: a = 5; M = (1, 0) / 5 scores (1, 0), and CE is ln(1 + 1/e)."""
    net = MonoForwardNet(1, hidden=(1,), n_classes=2)
    with torch.no_grad():
        net.layers[0].weight.fill_(3.0)
        net.layers[0].bias.fill_(-1.0)
        net.class_matrices[1].weight.copy_(torch.tensor([[0.2], [0.0]]))
    x = torch.tensor([[2.0]])
    assert_close(net.activations(x)[1], torch.tensor([[5.0]]))
    assert_close(net(x), torch.tensor([[1.0, 0.0]]))
    loss = net.local_losses(x, torch.tensor([0]))[1]
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_gradients_are_the_formulas(net, data):
    """e = (softmax(G) - onehot) / B; dM = e^T a; dW = (e M * act')^T a_before."""
    x, y = data
    net.local_losses(x, y)[2].backward()
    with torch.no_grad():
        _, before, a = net.activations(x)
        m = net.class_matrices[2].weight
        e = ((a @ m.T).softmax(dim=1) - F.one_hot(y, 5)) / len(x)
        dz = (e @ m) * (a > 0)
        assert_close(m.grad, e.T @ a)
        assert_close(net.layers[1].weight.grad, dz.T @ before)
        assert_close(net.layers[1].bias.grad, dz.sum(dim=0))


def test_each_loss_trains_its_layer_and_nothing_else(net, data):
    losses = {str(i): loss for i, loss in enumerate(net.local_losses(*data))}
    assert_isolated(losses, net, {name: own(int(name)) for name in losses})


@pytest.mark.parametrize("schedule", ["sequential", "simultaneous"])
@pytest.mark.parametrize("input_head", [True, False])
def test_trainers_losses_are_isolated_too(net, data, schedule, input_head):
    x, y = data
    trainer = net.trainer(0.01, schedule=schedule, input_head=input_head)
    first = 0 if input_head else 1
    seen = []
    for phase in range(trainer.phases):
        trainer.begin(phase)
        x = trainer.advance(x)
        losses = {str(i + first): loss for i, loss in trainer.losses(x, y)}
        assert_isolated(losses, net, {name: own(int(name)) for name in losses})
        seen += losses
    assert seen == [str(i) for i in range(first, 3)]


def test_a_phase_changes_its_own_layer_only(net, data):
    x, y = data
    trainer = net.trainer(0.01)
    for phase in range(trainer.phases):
        before = {name: p.clone() for name, p in net.named_parameters()}
        trainer.begin(phase)
        x = trainer.advance(x)
        trainer.fit_step(x, y)
        moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
        expected = {n for n in before if n.startswith(tuple(own(phase + 1)))}
        assert moved == expected


def test_one_layer_is_backpropagation_under_another_name(data):
    """With L = 1 the local loss is the global one: same updates as a net with that readout."""
    x, y = data
    torch.manual_seed(0)
    net = MonoForwardNet(12, hidden=(16,), n_classes=5)
    plain = torch.nn.Sequential(
        torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5, bias=False)
    )
    with torch.no_grad():
        plain[0].load_state_dict(net.layers[0].state_dict())
        plain[2].weight.copy_(net.class_matrices[1].weight)
    for trainer in (net.trainer(0.01), Backprop(plain, AdamW(0.01))):
        train(trainer, x, y, epochs=3, batch_size=8)
    assert_close(net.layers[0].weight, plain[0].weight)
    assert_close(net.class_matrices[1].weight, plain[2].weight)
    assert_close(net(x), plain(x))


def test_first_layers_of_twins_agree_and_second_layers_do_not(net, data):
    """What ablation in check.py rests on: cutting the input off is what makes the difference."""
    x, y = data
    total = sum(net.local_losses(x, y)[1:])
    total.backward()
    cut = net.layers[0].weight.grad.clone()
    net.zero_grad()
    a = F.relu(net.layers[0](x))
    b = F.relu(net.layers[1](a))
    (net.class_matrices[1](a, y) + net.class_matrices[2](b, y)).backward()
    assert not torch.allclose(net.layers[0].weight.grad, cut)


@settings(deadline=None, max_examples=20)
@given(order=st.permutations(range(5)))
def test_renaming_classes_renames_scores(order):
    torch.manual_seed(0)
    net, x = MonoForwardNet(6, hidden=(7, 8), n_classes=5), torch.randn(9, 6)
    before, losses = net.goodness(x), net.local_losses(x, torch.arange(9) % 5)
    with torch.no_grad():
        for matrix in net.class_matrices:
            matrix.weight.copy_(matrix.weight[list(order)])
    for was, now in zip(before, net.goodness(x), strict=True):
        assert_close(now, was[:, list(order)])
    y = torch.tensor([list(order).index(k) for k in (torch.arange(9) % 5).tolist()])
    for was, now in zip(losses, net.local_losses(x, y), strict=True):
        assert_close(now, was)


def test_order_of_hidden_units_does_not_matter(net, data):
    x, _ = data
    before = net.goodness(x)
    order = torch.randperm(16)
    with torch.no_grad():
        net.layers[0].weight.copy_(net.layers[0].weight[order])
        net.layers[0].bias.copy_(torch.randn(16))
    scrambled = net.goodness(x)
    assert not torch.allclose(scrambled[2], before[2])  # a half-done permutation shows
    with torch.no_grad():
        net.layers[0].bias.zero_()
        net.class_matrices[1].weight.copy_(net.class_matrices[1].weight[:, order])
        net.layers[1].weight.copy_(net.layers[1].weight[:, order])
    for was, now in zip(before, net.goodness(x), strict=True):
        assert_close(now, was)


def test_initialised_as_in_the_released_code():
    torch.manual_seed(0)
    net = MonoForwardNet(100, hidden=(400, 50), n_classes=10)
    for layer, fan_in in zip(net.layers, (100, 400), strict=True):
        bound = fan_in**-0.5
        assert 0.95 * bound < layer.weight.abs().max() <= bound
        assert layer.bias.abs().max() == 0
    for matrix, width in zip(net.class_matrices, (100, 400, 50), strict=True):
        assert 0.95 * width**-0.5 < matrix.weight.abs().max() <= width**-0.5
    assert 0.008 < net.output_layer.weight.std() < 0.012
    xavier = (6 / 500) ** 0.5  # tanh
    torch.manual_seed(0)
    tanh = MonoForwardNet(100, hidden=(400,), act="tanh").layers[0]
    assert 0.95 * xavier < tanh.weight.abs().max() <= xavier


def test_memory_for_the_backward_pass_does_not_grow_with_depth():
    x, y = torch.randn(64, 32), torch.arange(64) % 10

    def peak(depth, twin=False, **how):
        net = MonoForwardNet(32, hidden=(32,) * depth)
        trainer = Backprop(net.as_backprop(), AdamW(0.01)) if twin else net.trainer(0.01, **how)
        with saved_bytes(trainer.network) as saved:
            trainer.fit_step(x, y)
        return saved.peak

    for schedule in ("sequential", "simultaneous"):
        peaks = {peak(depth, schedule=schedule) for depth in (2, 4, 16)}
        assert len(peaks) == 1
    assert peak(16, twin=True) - peak(4, twin=True) == 12 * 64 * 32 * 4
    assert peak(16) < peak(16, twin=True) / 4


def test_cached_inputs_train_as_recomputed_ones_do(data):
    """One pass of the data between phases equals running the frozen layers for every batch."""
    x, y = data

    def fresh():
        torch.manual_seed(3)
        return MonoForwardNet(12, hidden=(16, 14, 10), n_classes=5)

    cached, again = fresh(), fresh()
    train(cached.trainer(0.01), x, y, epochs=2, batch_size=8)
    trainer = again.trainer(0.01)
    for phase in range(3):
        trainer.begin(phase)
        for _ in range(2):
            for start in range(0, 40, 8):
                with torch.no_grad():
                    h = again.activations(x[start : start + 8])[phase]
                trainer.fit_step(h, y[start : start + 8])
    for name, weight in cached.state_dict().items():
        assert_close(weight, again.state_dict()[name], rtol=1e-6, atol=1e-7, msg=name)


def test_reading_all_layers_adds_their_scores(net, data):
    x, _ = data
    goodness = net.goodness(x)
    last, total = net.trainer(0.1), net.trainer(0.1, readout="sum", input_head=True)
    assert_close(last.scores(x), goodness[2])
    assert_close(total.scores(x), goodness[1] + goodness[2])


def test_twin_starts_from_the_same_weights_and_shares_none(net, data):
    x, y = data
    twin = net.as_backprop()
    assert_close(twin(x), net.output_scores(x))
    before = {name: p.clone() for name, p in net.named_parameters()}
    Backprop(twin, AdamW(0.1)).fit_step(x, y)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


def test_learns_digits_as_well_as_its_twin():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = x / 16
    model = MonoForward((64, 64), random_state=0, epochs=15, lr=3e-3, batch_size=32)
    model.fit(x[:1200], y[:1200])
    twin = model.as_backprop().fit(x[:1200], y[:1200])
    assert model.score(x[1200:], y[1200:]) > 0.88 and twin.score(x[1200:], y[1200:]) > 0.88
    assert model.n_iter_ == 30 and twin.n_iter_ == 15
    assert model.extract(x[:3], 1).shape == (3, 64)
    assert_close(model.goodness(x[:3])[-1], model.decision_function(x[:3]).astype("float32"))


def test_works_in_a_pipeline_and_a_search_with_any_labels():
    from sklearn.datasets import load_iris
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, numbers = load_iris(return_X_y=True)
    y = np.array(["setosa", "versicolor", "virginica"])[numbers]
    model = MonoForward((32, 16), epochs=30, lr=0.01, batch_size=16, random_state=0)
    grid = {"monoforward__schedule": ["sequential", "simultaneous"]}
    search = GridSearchCV(make_pipeline(StandardScaler(), model), grid, cv=3).fit(x, y)
    assert search.best_score_ > 0.9
    assert set(search.predict(x)) == set(y)


def test_early_stopping_is_the_released_codes_or_keeps_the_best(data):
    x, y = data
    x_val, y_val = torch.randn(20, 12), torch.arange(20) % 5  # noise: its loss soon rises
    model = MonoForward((16,), epochs=60, lr=0.05, batch_size=8, patience=3, random_state=0)
    model.fit(x, y, x_val, y_val)
    (phase,) = model.history_
    assert len(phase.held_out) == phase.best + 4 < 60
    loss = F.cross_entropy(model.network_(x_val), y_val).item()
    assert loss == pytest.approx(phase.held_out[-1], abs=1e-5)  # the last epoch's weights
    model.set_params(restore_best=True).fit(x, y, x_val, y_val)
    loss = F.cross_entropy(model.network_(x_val), y_val).item()
    assert loss == pytest.approx(min(model.history_[0].held_out), abs=1e-5)


def test_same_seed_same_weights_and_the_estimator_pickles(data):
    x, y = data
    rng = torch.get_rng_state()
    a, b, c = (MonoForward((16, 14), epochs=2, random_state=s).fit(x, y) for s in (0, 0, 1))
    assert torch.equal(rng, torch.get_rng_state())
    assert np.array_equal(a.predict_proba(x), b.predict_proba(x))
    assert not np.array_equal(a.predict_proba(x), c.predict_proba(x))
    loaded = pickle.loads(pickle.dumps(a))
    assert np.array_equal(a.predict_proba(x), loaded.predict_proba(x))


def test_official_layout_goes_both_ways(net, data):
    x, _ = data
    state = {name: p.clone() for name, p in net.to_official().items()}
    for wrapped in (state, {"model": state}, {"state_dict": state, "epoch": 3}):
        again = MonoForwardNet.from_official(wrapped)
        assert_close(again(x), net(x))
    parallel = {f"module.{name}": p for name, p in state.items()}
    assert_close(MonoForwardNet.from_official(parallel).output_scores(x), net.output_scores(x))
    bare = {name: p for name, p in state.items() if not name.startswith("output_layer")}
    assert_close(MonoForwardNet.from_official(bare)(x), net(x))
    model = MonoForward.from_official(state, readout="sum")
    assert model.predict(x).shape == (40,)
    without = MonoForwardNet(12, (16,), 5, bias=False).to_official()
    assert not MonoForwardNet.from_official(without).bias


def test_official_layout_that_does_not_fit_is_refused(net):
    state = net.to_official()
    with pytest.raises(ValueError, match=r"must hold projection_matrices\.0 and more, .* a, b"):
        MonoForwardNet.from_official({"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"layers\.2\.bias must have shape \(14,\), got \(3,\)"):
        MonoForwardNet.from_official({**state, "layers.2.bias": torch.zeros(3)})
    with pytest.raises(ValueError, match="state must hold"):
        MonoForwardNet.from_official({**state, "layers.9.bias": torch.zeros(3)})
    with pytest.raises(TypeError, match=r"state\['x'\] must be a tensor, got int"):
        MonoForwardNet.from_official({"x": 3})


def test_bad_input_is_named(net, data):
    from sklearn.exceptions import NotFittedError

    x, y = data
    with pytest.raises(ValueError, match=r"x must flatten to \(batch, 12\), got shape \(2, 3\)"):
        net(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="act must be one of relu, tanh, got 'gelu'"):
        MonoForwardNet(3, act="gelu")
    with pytest.raises(ValueError, match=r"dim and hidden must be positive, got dim=3, .*\(\)"):
        MonoForwardNet(3, hidden=())
    with pytest.raises(ValueError, match="n_classes must be 2 or more, got 1"):
        MonoForwardNet(3, n_classes=1)
    with pytest.raises(ValueError, match="readout must be 'last' or 'sum', got 'first'"):
        net.trainer(0.1, readout="first")
    with pytest.raises(ValueError, match="lr must be positive and weight_decay not negative"):
        net.trainer(0.1, weight_decay=-1)
    model = MonoForward((8,), n_classes=5, epochs=1)
    with pytest.raises(NotFittedError):
        model.predict(x)
    with pytest.raises(NotFittedError):
        model.goodness(x)
    with pytest.raises(ValueError, match=r"expected labels in 0\.\.4, got 1 to 5"):
        model.fit(x, y + 1)
    with pytest.raises(ValueError, match=r"expected integer labels .* got torch\.float32"):
        model.fit(x, y.float())
    with pytest.raises(ValueError, match="1D array"):
        model.fit(torch.zeros(40), y)
    with pytest.raises(ValueError, match="schedule must be 'simultaneous' or 'sequential', got"):
        model.set_params(schedule="random").fit(x, y)
    model.set_params(schedule="sequential").fit(x, y)
    with pytest.raises(ValueError, match=r"expected samples of shape \(12,\).*\(7,\)|7 features"):
        model.predict(torch.zeros(2, 7))
    with pytest.raises(ValueError, match="layer must be at most 1, got 2"):
        model.extract(x, 2)
    with pytest.raises(RuntimeError, match=r"the loss of stage 0 became (nan|inf) in phase 0"):
        model.fit(x, y, lr=1e30, epochs=3)


def test_trainers_and_twins_are_what_the_kit_expects(net):
    assert isinstance(net.trainer(0.1), PhasedTrainer)
    assert isinstance(net.trainer(0.1, schedule="simultaneous"), LocalTrainer)
    assert isinstance(MonoForward().as_backprop(lr=0.5), LocalClassifier)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_passes_scikit_learns_own_checks():
    from sklearn.utils.estimator_checks import check_estimator

    model = MonoForward((32,), epochs=60, lr=1e-2, batch_size=16, random_state=0)
    known = {
        "check_methods_subset_invariance": "asks scores of float32 to agree within 1e-7",
        "check_do_not_raise_errors_in_init_or_set_params": "pytest enforces the signature's types",
    }
    found = check_estimator(model, expected_failed_checks=known, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in found if r["status"] == "failed"}
    assert failed == {}, failed
    assert len(found) > 40
