import functools
import itertools
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.kit.local_learning import (
    Backprop,
    Held,
    LocalClassifier,
    LocalLosses,
    LocalTrainer,
    PhasedTrainer,
    assert_isolated,
    backprop,
    class_numbers,
    reached,
    saved_bytes,
    train,
)

SGD = functools.partial(torch.optim.SGD, lr=0.1)


class Head(nn.Module):
    """A linear readout with its cross entropy."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.read = nn.Linear(width, classes)

    def forward(self, h, y):
        return F.cross_entropy(self.read(h), y)


def last(outputs):
    return outputs[-1][:, :3]


def local(depth=3, width=8, schedule="simultaneous", optimiser=SGD, inside=5):
    torch.manual_seed(0)
    sizes = [inside] + [width] * depth
    stages = nn.Sequential(
        *(nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes))
    )
    return LocalLosses(stages, [Head(width, 3) for _ in range(depth)], optimiser, last, schedule)


def network(shape, classes):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(shape), 32), nn.ReLU(), nn.Linear(32, classes)
    )


def local_trainer(net, n_classes, lr):
    """A trainer that pickles, as scikit-learn's checks want it."""
    return LocalLosses(
        [net[:3], net[3:]],
        [Head(32, n_classes), F.cross_entropy],
        functools.partial(torch.optim.Adam, lr=lr),
        take_last,
    )


def take_last(outputs):
    return outputs[-1]


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(60, 5, generator=g)
    return x, x[:, :3].argmax(dim=1)


@pytest.mark.parametrize("schedule", ["simultaneous", "sequential"])
def test_each_loss_reaches_its_own_stage_and_nothing_else(data, schedule):
    trainer = local(schedule=schedule)
    x, y = data
    for phase in range(trainer.phases):
        trainer.begin(phase)
        x = trainer.advance(x)
        losses = {str(i): loss for i, loss in trainer.losses(x, y)}
        assert_isolated(
            losses, trainer.network, {i: [f"stages.{i}.", f"losses.{i}."] for i in losses}
        )
        trainer.fit_step(x, y)


def test_isolation_notices_a_leak_and_a_gap():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    first = net[0](torch.ones(1, 2))
    losses = {"a": first.sum(), "b": net[1](first).sum()}  # the input of b is not detached
    assert reached(losses["a"], net) == {"0.weight", "0.bias"}
    with pytest.raises(AssertionError, match=r"the loss of b reaches 0\.bias; .* 0\.weight"):
        assert_isolated(losses, net, {"a": ["0."], "b": ["1."]})
    with pytest.raises(AssertionError, match=r"the loss of a does not reach 1\.bias"):
        assert_isolated({"a": first.sum()}, net, {"a": ["0.", "1."]})
    with pytest.raises(AssertionError, match="does not reach"):
        assert_isolated({"a": first.detach().sum()}, net, {"a": ["0."]})
    with pytest.raises(ValueError, match=r"owns: expected the names \['a'\], got \['z'\]"):
        assert_isolated({"a": first.sum()}, net, {"z": ["0."]})


def test_step_is_sgd_on_each_stage_by_hand(data):
    """One weight, one sample: h = w x, loss = h y, so the step is -lr x y."""
    stage = nn.Linear(1, 1, bias=False)
    nn.init.constant_(stage.weight, 2.0)
    trainer = LocalLosses([stage], [lambda h, y: (h * y).sum()], SGD, last)
    losses = trainer.fit_step(torch.tensor([[3.0]]), torch.tensor([[5.0]]))
    assert losses == {"stage 0": 30.0}
    assert stage.weight.item() == pytest.approx(2.0 - 0.1 * 15)


def test_next_stage_sees_the_output_from_before_the_step(data):
    """One forward pass for both: what makes the simultaneous schedule a single pass."""
    trainer, twin = local(depth=2), local(depth=2)
    x, y = data
    inputs = []
    trainer.stages[1].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    trainer.fit_step(x, y)
    assert_close(inputs[0], twin.stages[0](x).detach())
    assert not torch.equal(trainer.stages[0](x), inputs[0])  # it has learnt since


def test_phase_trains_one_stage_with_a_fresh_optimiser(data):
    trainer = local(schedule="sequential", optimiser=functools.partial(torch.optim.Adam, lr=0.1))
    x, y = data
    trainer.begin(1)
    before = {name: p.clone() for name, p in trainer.network.named_parameters()}
    trainer.fit_step(trainer.advance(x), y)
    moved = {n for n, p in trainer.network.named_parameters() if not torch.equal(p, before[n])}
    assert {name.split(".")[1] for name in moved} == {"1"} and len(moved) == 4
    trainer.begin(1)
    assert not trainer.optimisers[1].state
    trainer.begin(2)
    assert all(p.grad is None for p in trainer.network.parameters())
    with pytest.raises(ValueError, match=r"phase must be in 0\.\.2, got 3"):
        trainer.begin(3)


def test_carrying_data_equals_running_the_stages_again(data):
    x, y = data
    trainer = local(schedule="sequential")
    phases = train(trainer, x, y, epochs=2, batch_size=20)
    twin = local(schedule="sequential")
    for phase in range(3):
        twin.begin(phase)
        for _ in range(2):
            for start in range(0, 60, 20):
                with torch.no_grad():
                    h = x[start : start + 20]
                    for stage in twin.stages[:phase]:
                        h = stage(h)
                twin.fit_step(h, y[start : start + 20])
    for name, tensor in trainer.network.state_dict().items():
        assert torch.equal(tensor, twin.network.state_dict()[name]), name
    assert [len(phase.losses) for phase in phases] == [2, 2, 2]
    assert list(phases[1].losses[0]) == ["stage 1"]


def test_saved_memory_does_not_grow_with_depth_but_backprops_does():
    x, y = torch.randn(64, 16), torch.arange(64) % 3

    def peak(trainer):
        with saved_bytes(trainer.network) as saved:
            trainer.fit_step(x, y)
        assert saved.now == 0
        return saved.peak

    locally = [peak(local(depth, 16, inside=16)) for depth in (2, 8, 16)]
    assert locally[0] == locally[1] == locally[2] > 0
    globally = [
        peak(Backprop(nn.Sequential(*local(depth, 16, inside=16).stages), SGD))
        for depth in (2, 8, 16)
    ]
    layer = 64 * 16 * 4  # one layer's activations
    assert globally[1] - globally[0] == 6 * layer and globally[2] - globally[1] == 8 * layer


def test_shared_memory_counts_once_and_is_let_go():
    x = torch.ones(4, requires_grad=True)
    with saved_bytes() as saved:
        y = x * x  # saved twice, one storage
        assert (saved.now, saved.peak) == (16, 16)
        z = y.exp()  # its output
        assert saved.now == 32
        del y
        assert saved.now == 32
        z.sum().backward()
        assert saved.now == 0
        del z
    assert saved.peak == 32
    assert_close(x.grad, torch.full((4,), 2 * math.e))


def test_views_of_what_lives_anyway_cost_nothing():
    layer = nn.Linear(3, 4, bias=False)
    x = torch.ones(2, 3, requires_grad=True)
    with saved_bytes(layer, x) as saved:
        layer(x).sum().backward()
    assert saved.peak == 0
    with saved_bytes() as saved:
        layer(x).sum().backward()
    assert saved.peak == 4 * (12 + 6)


def test_graph_that_outlives_the_block_is_still_released():
    x = torch.ones(4, requires_grad=True)
    with saved_bytes() as saved:
        y = x.exp()
    assert saved.now == 16
    y.sum().backward()
    assert saved.now == 0


def test_early_stopping_keeps_the_best_epoch(data):
    x, y = data

    class Scripted:
        """Its held-out error is 0.4, 0.2, 0.3, 0.3, ...; its weight counts the epochs."""

        phases = 2

        def __init__(self):
            self.network = nn.Linear(1, 1)
            self.log = []

        def begin(self, phase):
            self.log.append(("begin", phase))
            nn.init.zeros_(self.network.weight)

        def advance(self, x):
            self.log.append("advance")
            return x

        def fit_step(self, x, y):
            self.network.weight.data += 1
            return {"it": 1.0}

        def scores(self, x):
            raise AssertionError("a phased trainer is watched by phase_scores")

        def phase_scores(self, x):
            epoch = int(self.network.weight.item())
            wrong = {1: 4, 2: 2}.get(epoch, 3)
            scores = F.one_hot(torch.zeros(10, dtype=torch.int64), 2).float()
            scores[:wrong] = scores[:wrong].flip(1)
            return scores

    trainer = Scripted()
    assert isinstance(trainer, PhasedTrainer)
    held = Held(torch.zeros(10, 5), torch.zeros(10, dtype=torch.int64), patience=3)
    phases = train(trainer, x, y, epochs=100, batch_size=60, held=held)
    assert trainer.log == [("begin", 0), "advance", "advance", ("begin", 1), "advance", "advance"]
    assert [p.held_out for p in phases] == [pytest.approx([0.4, 0.2, 0.3, 0.3, 0.3])] * 2
    assert [p.best for p in phases] == [1, 1]
    assert trainer.network.weight.item() == 2
    stay = Held(held.x, held.y, patience=3, restore=False)
    train(trainer, x, y, epochs=100, batch_size=60, held=stay)
    assert trainer.network.weight.item() == 5
    coarse = Held(held.x, held.y, patience=1, min_delta=0.2)  # a fall of 0.2 is no gain then
    assert train(trainer, x, y, epochs=100, batch_size=60, held=coarse)[0].best == 0


def test_loop_shuffles_drops_and_counts(data):
    x, y = data
    seen = []

    class Recorder:
        network = nn.Identity()

        def fit_step(self, x, y):
            seen.append(len(x))
            return {"a": float(len(seen))}

        def scores(self, x):
            return torch.zeros(len(x), 3)

    ends = []
    (phase,) = train(
        Recorder(), x, y, epochs=2, batch_size=25, drop_last=True, after_epoch=ends.append
    )
    assert seen == [25] * 4 and ends == [1, 2]
    assert phase.losses == [{"a": 1.5}, {"a": 3.5}] and phase.best == 1
    seen.clear()
    train(Recorder(), x, y, epochs=1, batch_size=25)
    assert seen == [25, 25, 10]
    seen.clear()
    train(Recorder(), x[:10], y[:10], epochs=1, batch_size=25, drop_last=True)
    assert seen == [10]
    with pytest.raises(ValueError, match="epochs and batch_size must be positive, got 0 and 2"):
        train(Recorder(), x, y, epochs=0, batch_size=2)
    with pytest.raises(ValueError, match="x and y need one length above 0, got 60 and 59"):
        train(Recorder(), x, y[1:], epochs=1)


def test_loss_that_is_not_finite_stops_with_the_layers_name(data):
    x, y = data
    x = x.clone()
    x[7] = math.inf
    with pytest.raises(RuntimeError, match=r"the loss of stage 0 became .* in phase 0"):
        train(local(), x, y, epochs=1)


def test_bad_stages_are_refused():
    with pytest.raises(ValueError, match="losses: expected one for each stage, got 1 for 2"):
        LocalLosses([nn.ReLU(), nn.ReLU()], [F.cross_entropy], SGD, last)
    with pytest.raises(ValueError, match="schedule must be 'simultaneous' or 'sequential', got"):
        LocalLosses([nn.ReLU()], [F.cross_entropy], SGD, last, schedule="both")


def test_trainers_are_what_they_say():
    assert isinstance(local(), LocalTrainer) and isinstance(local(), PhasedTrainer)
    assert isinstance(backprop(nn.Linear(2, 2), 2, 0.1), LocalTrainer)
    assert not isinstance(nn.Linear(2, 2), LocalTrainer)


def test_labels_are_checked():
    assert class_numbers(np.array([0, 2], dtype=np.uint8), 3).dtype == torch.int64
    for bad in (torch.tensor([0.0, 1.0]), torch.tensor([[0], [1]]), torch.tensor([True, False])):
        with pytest.raises(ValueError, match="expected integer labels of shape"):
            class_numbers(bad, 3)
    with pytest.raises(ValueError, match=r"expected labels in 0\.\.2, got 0 to 3"):
        class_numbers([0, 3], 3)


@pytest.mark.parametrize("trainer", [backprop, local_trainer])
def test_works_in_a_pipeline_and_a_search(trainer):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = load_digits(return_X_y=True)
    x, y = x[:1000], np.array(list("abcdefghij"))[y[:1000]]
    model = LocalClassifier(network, trainer, epochs=8, lr=3e-3, batch_size=32, random_state=0)
    pipeline = make_pipeline(StandardScaler(), model)
    assert cross_val_score(pipeline, x, y, cv=2).min() > 0.8
    search = GridSearchCV(pipeline, {"localclassifier__lr": [1e-6, 3e-3]}, cv=2).fit(x, y)
    assert search.best_params_ == {"localclassifier__lr": 3e-3}
    assert search.predict_proba(x[:5]).sum(axis=1) == pytest.approx(1.0)
    assert set(search.predict(x)) <= set("abcdefghij")


def test_same_seed_same_model_and_the_given_network_is_untouched(data):
    x, y = data
    net = network((5,), 3)
    before = {name: p.clone() for name, p in net.named_parameters()}
    rng = torch.get_rng_state()
    models = [LocalClassifier(net, epochs=3, random_state=s).fit(x, y) for s in (1, 1, 2)]
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    first, again, other = (model.decision_function(x) for model in models)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    seeded = LocalClassifier(net, epochs=3, random_state=2).fit(x, y, seed=1)
    assert np.array_equal(seeded.decision_function(x), first)
    loaded = pickle.loads(pickle.dumps(models[0]))
    assert np.array_equal(loaded.decision_function(x), first)


def test_held_out_data_stops_training(data):
    x, y = data
    model = LocalClassifier(network, epochs=200, lr=0.05, patience=2, random_state=0)
    model.fit(x, y)
    (phase,) = model.history_
    assert len(phase.held_out) == model.n_iter_ < 200
    assert model.n_iter_ - phase.best == 3
    model.fit(x[:40], y[:40], x[40:], y[40:], epochs=1)
    assert model.n_iter_ == 1
    error = 1 - model.score(x[40:], y[40:])
    assert model.history_[0].held_out == [pytest.approx(error)]


def test_what_does_not_fit_is_named(data):
    from sklearn.exceptions import NotFittedError

    x, y = data
    model = LocalClassifier(network, epochs=1, n_classes=3)
    with pytest.raises(NotFittedError, match="this LocalClassifier is not fitted: call fit first"):
        model.predict(x)
    with pytest.raises(ValueError, match=r"expected labels in 0\.\.2, got 1 to 3"):
        model.fit(x, y + 1)
    with pytest.raises(ValueError, match="X_val and y_val go together"):
        model.fit(x, y, X_val=x)
    with pytest.raises(ValueError, match="lr must be positive, got -1"):
        model.fit(x, y, lr=-1)
    with pytest.raises(ValueError, match="y_val: expected 60 labels among the classes of y"):
        model.fit(x, y, x, y + 1)
    with pytest.raises(ValueError, match="has no parameter 'depth', only"):
        model.set_params(depth=3)
    with pytest.raises(ValueError, match=r"validation_fraction must lie .* got 2\.0"):
        LocalClassifier(network, patience=1, validation_fraction=2.0).fit(x, y)
    model.fit(x.view(60, 5, 1), y)
    with pytest.raises(ValueError, match=r"expected samples of shape \(5, 1\) as in fit, got"):
        model.predict(torch.zeros(2, 5, 2))


def test_parameters_are_listed_nested_and_shown():
    inner = LocalClassifier(network, lr=0.5)
    outer = LocalClassifier(network, random_state=3)
    outer.set_params(network=inner, network__lr=0.25, epochs=7)
    assert inner.lr == 0.25 and outer.get_params()["network__lr"] == 0.25
    assert repr(LocalClassifier(nn.ReLU(), lr=0.5)) == "LocalClassifier(network=ReLU(), lr=0.5)"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trainer", [backprop, local_trainer])
def test_passes_scikit_learns_own_checks(trainer):
    from sklearn.utils.estimator_checks import check_estimator

    model = LocalClassifier(network, trainer, epochs=60, lr=1e-2, batch_size=16, random_state=0)
    known = {
        "check_methods_subset_invariance": "asks scores of float32 to agree within 1e-7",
        "check_do_not_raise_errors_in_init_or_set_params": "pytest enforces the signature's types",
    }
    found = check_estimator(model, expected_failed_checks=known, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in found if r["status"] == "failed"}
    assert failed == {}, failed
    assert len(found) > 40


def test_importing_loads_no_scikit_learn():
    code = "import sys, workingpapers.kit.local_learning; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
