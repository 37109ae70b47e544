import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.local_learning import LocalClassifier, LocalTrainer, assert_isolated, train
from workingpapers.kit.vision import load_timm
from workingpapers.papers.counter_current.autoencoder import CounterCurrentAutoencoder
from workingpapers.papers.counter_current.estimators import (
    CounterCurrentClassifier,
    CounterCurrentEncoder,
)
from workingpapers.papers.counter_current.method import CounterCurrent
from workingpapers.papers.counter_current.mirrors import make_feedback, split_stages
from workingpapers.papers.counter_current.network import CounterCurrentCNN, CounterCurrentMLP
from workingpapers.papers.counter_current.storage import from_official, load, save
from workingpapers.papers.counter_current.training import (
    ClippedSGD,
    CounterCurrentTrainer,
    centralise,
    counter_current_,
)


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(90, 6, generator=g)
    return x, x[:, :3].argmax(dim=1)


def mlp(**settings):
    torch.manual_seed(0)
    return CounterCurrentMLP((6, 8, 8), 3, **settings)


def convolutional(shape=(1, 8, 8), classes=3):
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, classes),
    )  # fmt: skip


def test_step_clips_the_two_networks_apart():
    """Zero to twice as large gradients in one half leave the other half's step as it was."""
    net, sgd = mlp(), ClippedSGD(0.5, clip=1.0)
    trainer = CounterCurrentTrainer(net, sgd)
    x, y = torch.randn(5, 6), torch.arange(5) % 3
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    trainer.fit_step(x, y)
    for half in ("up", "down"):
        moved = [p - before[n] for n, p in net.named_parameters() if n.startswith(half)]
        length = torch.stack([m.norm() for m in moved]).norm().item()
        assert length == pytest.approx(0.5, rel=1e-4)  # longer than 1 before clipping
    layered = mlp()
    trainer = CounterCurrentTrainer(layered, sgd, scope="layer")
    assert len(trainer.optimisers) == 6
    trainer.fit_step(x, y)
    for name, p in layered.named_parameters():
        assert (p - before[name]).norm().item() <= 0.5 + 1e-5


def test_unclipped_step_is_plain_descent():
    net, x, y = mlp(), torch.randn(5, 6), torch.arange(5) % 3
    twin = mlp()
    twin.accumulate(x, y)
    CounterCurrentTrainer(net, ClippedSGD(0.1, clip=None)).fit_step(x, y)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert_close(p, q - 0.1 * q.grad)
    other = mlp()
    other.step(x, y, torch.optim.SGD(other.parameters(), 0.1))
    assert_close(list(other.parameters()), list(net.parameters()))


def test_centralised_gradients_have_no_mean_and_warmup_scales_them():
    net = CounterCurrentCNN(1, (4, 4), 3, size=4, kind="stride")
    x, y = torch.randn(5, 1, 4, 4), torch.arange(5) % 3
    net.accumulate(x, y)
    parameters = list(net.parameters())
    bias = net.up[0].layer.bias.grad.clone()
    centralise(parameters)
    assert all(p.grad.flatten(1).mean(dim=1).abs().max() < 1e-6 for p in parameters if p.ndim > 1)
    assert_close(net.up[0].layer.bias.grad, bias)

    slow, quick = mlp(), mlp()
    x = torch.randn(5, 6)
    CounterCurrentTrainer(slow, ClippedSGD(0.4, clip=None), warmup=4).fit_step(x, y)
    CounterCurrentTrainer(quick, ClippedSGD(0.1, clip=None)).fit_step(x, y)
    assert_close(list(slow.parameters()), list(quick.parameters()))


def test_norms_are_not_trained_unless_asked():
    x, y = torch.randn(6, 6), torch.arange(6) % 3
    for asked in (False, True):
        net = mlp(norm="output", feedback_norm="output")
        CounterCurrentTrainer(net, ClippedSGD(0.1), train_norms=asked).fit_step(x, y)
        assert bool((net.up[0].norm.weight != 1).any()) is asked
        assert (net.up[0].norm.running_mean != 0).any()


def test_ordinary_network_learns_in_place(data):
    x, y = data
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 32), nn.ELU(), nn.Linear(32, 32), nn.ELU(), nn.Linear(32, 32), nn.ELU(),
        nn.Linear(32, 3),
    )  # fmt: skip
    step = counter_current_(net, 3, lr=0.3)
    assert isinstance(step, LocalTrainer)
    train(step, x, y, epochs=20, batch_size=15, generator=torch.Generator().manual_seed(0))
    assert (net(x).argmax(1) == y).float().mean() > 0.85
    assert_close(net(x), step.scores(x))
    dual = step.network
    losses = dict(zip(dual.owns(), dual.local_losses(x, y), strict=True))
    assert_isolated(losses, dual, dual.owns())
    assert len(step(x, y)) == 5


def test_ordinary_convolutional_network_gets_a_mirror():
    torch.manual_seed(0)
    net, x = convolutional(), torch.randn(6, 1, 8, 8)
    step = counter_current_(net, 3, lr=0.1, example=x)
    dual = step.network
    assert dual.loss == "cosine"
    shapes = [tuple(c.shape[1:]) for c in dual.feedback()]
    assert shapes == [tuple(a.shape[1:]) for a in dual.activations(x)]
    assert shapes == [(1, 8, 8), (4, 4, 4), (6,), (3,)]
    assert isinstance(dual.down[1][-1], nn.ReLU)  # the activation of the level it answers
    assert isinstance(dual.down[2][-1], nn.ELU)  # pooled and flattened, but it is one
    assert isinstance(dual.down[0][-1], nn.Conv2d)  # the input has none
    before = net[0].weight.clone()
    assert len(step(x, torch.arange(6) % 3)) == 4
    assert not torch.equal(before, net[0].weight)


def test_mirrors_run_layers_backwards():
    stage = nn.Sequential(
        nn.Conv2d(2, 4, 5, 3), nn.Tanh(), nn.Conv2d(4, 6, 3), nn.Tanh(), nn.AvgPool2d(2)
    )
    back = make_feedback(stage, torch.zeros(1, 2, 23, 23), nn.Tanh())
    assert [type(part) for part in back] == [
        nn.Upsample, nn.Upsample, nn.Conv2d, nn.Tanh, nn.Upsample, nn.Conv2d, nn.Tanh,
    ]  # fmt: skip
    assert back(torch.zeros(10, 6, 2, 2)).shape == (10, 2, 23, 23)
    grouped = make_feedback(nn.Conv2d(4, 4, 4, groups=2), torch.zeros(1, 4, 9, 9))
    assert grouped(torch.zeros(1, 4, 6, 6)).shape == (1, 4, 9, 9)
    leaky = nn.Sequential(nn.Linear(2, 3), nn.LeakyReLU(0.3, inplace=True), nn.Linear(3, 4))
    mirror = make_feedback(leaky, torch.zeros(1, 2))
    assert mirror[1].negative_slope == 0.3 and not mirror[1].inplace


def test_foreign_stages_are_mirrored_by_their_shapes():
    timm = load_timm()
    torch.manual_seed(0)
    resnet = timm.create_model("resnet10t", num_classes=5, in_chans=1)
    stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.act1, resnet.maxpool)
    stages = [stem, resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
    x, y = torch.randn(4, 1, 32, 32), torch.arange(4)
    pairs, h = [], x
    for i, stage in enumerate(stages):
        pairs.append((stage, make_feedback(stage, h, nn.ReLU() if i else None)))
        h = stage.eval()(h)
    head = nn.Sequential(resnet.global_pool, resnet.fc)
    pairs.append((head, make_feedback(head, h, nn.ReLU())))
    net = CounterCurrent(pairs, 5, loss="cosine")
    net.check(x, y)
    losses = dict(zip(net.owns(), net.local_losses(x, y), strict=True))
    assert_isolated(losses, net, net.owns())
    trainer = CounterCurrentTrainer(net, ClippedSGD(0.05), train_norms=True)
    first = trainer.fit_step(x, y)
    for _ in range(3):
        last = trainer.fit_step(x, y)
    assert sum(last.values()) < sum(first.values())
    assert_close(resnet.eval()(x), trainer.scores(x))


def test_tokens_are_mirrored_by_one_linear_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    back = make_feedback(layer, torch.zeros(2, 5, 8))
    assert back(torch.zeros(3, 5, 8)).shape == (3, 5, 8)
    with pytest.raises(
        TypeError, match=r"no mirror for Pooled, which turns \(5, 8\) into \(4, 8\)"
    ):

        class Pooled(nn.Module):
            def forward(self, x):
                return x[:, :4]

        make_feedback(Pooled(), torch.zeros(2, 5, 8))


def test_estimators_fit_in_pipelines_and_searches():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = load_digits(return_X_y=True)
    x, y = x[:500], np.array(list("abcdefghij"))[y[:500]]
    model = CounterCurrentClassifier((32, 32, 32), epochs=12, batch_size=20, random_state=0)
    line = make_pipeline(StandardScaler(), model)
    assert cross_val_score(line, x, y, cv=2).min() > 0.8
    name = "countercurrentclassifier__lr"
    search = GridSearchCV(line, {name: [1e-5, 0.5]}, cv=2).fit(x, y)
    assert search.best_params_ == {name: 0.5}
    images = x.reshape(-1, 8, 8) / 16
    conv = CounterCurrentClassifier(channels=(8, 16), epochs=1, momentum=0.5, random_state=0)
    assert conv.fit(images, y).predict_proba(images).shape == (500, 10)
    assert isinstance(conv.network_, CounterCurrentCNN)
    own = LocalClassifier(convolutional((1, 8, 8), 10), counter_current_, epochs=1, lr=0.5)
    own.fit(images[:, None], y)
    assert set(own.predict(images[:, None])) <= set("abcdefghij")


def test_same_seed_same_classifier_and_no_global_state(data):
    x, y = data
    rng = torch.get_rng_state()
    models = [
        CounterCurrentClassifier((8, 8), epochs=2, random_state=s).fit(x, y) for s in (1, 1, 2)
    ]
    assert torch.equal(rng, torch.get_rng_state())
    first, again, other = (m.predict_proba(x) for m in models)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(pickle.loads(pickle.dumps(models[0])).predict_proba(x), first)
    early = CounterCurrentClassifier((8, 8), epochs=60, patience=2, lr=0.3, random_state=0)
    early.fit(x, y)
    assert early.n_iter_ == len(early.history_[0].held_out)


def test_encoder_compresses_and_restores_images():
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.interpolate(torch.randn(64, 1, 2, 2, generator=g), size=(8, 8))
    x = x.numpy()[:, 0]
    model = CounterCurrentEncoder((8, 16), epochs=15, lr=0.03, batch_size=16, random_state=0)
    line = clone(make_pipeline(FunctionTransformer(), model))
    codes = line.fit_transform(x)
    fitted = line[-1]
    assert codes.shape == (64, 16 * 4)
    assert fitted.score(x) > -0.5 * float((x**2).mean())
    restored = fitted.inverse_transform(codes)
    assert -float(((restored[:, 0] - x) ** 2).mean()) == pytest.approx(fitted.score(x), rel=1e-4)
    assert len(fitted.losses_) == 15
    with pytest.raises(Exception, match="call fit first"):
        CounterCurrentEncoder().transform(x)
    with pytest.raises(ValueError, match="expected images"):
        CounterCurrentEncoder().fit(x[0])
    with pytest.raises(ValueError, match="no parameter 'depth'"):
        CounterCurrentEncoder().set_params(depth=3)


def test_both_halves_are_saved_and_loaded(tmp_path, data):
    x, y = data
    torch.manual_seed(1)
    networks = [
        (mlp(act="tanh", filter_confident=True, norm="input"), x),
        (CounterCurrentCNN(1, (2, 3), 4, size=8, kind="stride"), torch.randn(2, 1, 8, 8)),
        (CounterCurrentAutoencoder(1, (2, 3), norm=False), torch.randn(2, 1, 8, 8)),
    ]
    for net, example in networks:
        save(net, tmp_path / "net.safetensors")
        back = load(tmp_path / "net.safetensors")
        assert type(back) is type(net) and back.config == net.config
        assert_close(back.state_dict(), net.state_dict())
        assert_close(back(example), net.eval()(example))
    names = np.array(["a", "b", "c"])[y.numpy()]
    model = CounterCurrentClassifier((8, 8), epochs=1, random_state=0).fit(x, names)
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert np.array_equal(again.predict(x), model.predict(x))
    with pytest.raises(TypeError, match=r"model must be one of .* got Linear"):
        save(nn.Linear(2, 2), tmp_path / "x.safetensors")


def official(net):
    """A state under the released code's names."""
    names = [f"enc{i}" for i in range(1, len(net.up))] + ["output"]
    state = {}
    for half, way in ((net.up, "forward"), (net.down, "backward")):
        for name, stage in zip(names, half, strict=True):
            for leaf, value in stage.layer.state_dict().items():
                state[f"{name}.{way}_layer.{leaf}"] = value
    return state


def test_official_states_load_whatever_they_are_wrapped_in():
    net = mlp()
    state = official(net)
    assert state["enc2.backward_layer.weight"].shape == (8, 8)
    for wrapped in (state, {"model": state}, {"module." + k: v for k, v in state.items()}):
        assert_close(from_official(wrapped).state_dict(), net.state_dict())
    torch.manual_seed(0)
    stride = CounterCurrentCNN(1, (2, 3), 4, size=8, kind="stride", feedback_bias=False)
    loaded = from_official(official(stride), size=8)
    assert loaded.config["kind"] == "stride"
    assert_close(loaded.state_dict(), stride.state_dict())
    with pytest.raises(ValueError, match="the state fits images of 8 pixels a side, got 32"):
        from_official(official(stride))
    with pytest.raises(ValueError, match=r"expected 'enc1\.forward_layer\.weight', got \['a'\]"):
        from_official({"a": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"nothing there for down\.1\.layer\.weight"):
        from_official({k: v for k, v in state.items() if k != "enc2.backward_layer.weight"})
    with pytest.raises(ValueError, match=r"'enc1\.extra\.weight' has no place"):
        from_official(state | {"enc1.extra.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"must have shape \(8, 8\), got \(2, 2\)"):
        from_official(state | {"enc2.backward_layer.weight": torch.zeros(2, 2)})
    with pytest.raises(TypeError, match=r"state\['a'\] must be a tensor, got int"):
        from_official({"a": 3})


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: ClippedSGD(0.0), ValueError, "lr and clip must be positive, got lr=0.0"),
        (lambda: ClippedSGD(1.0, momentum=-1.0), ValueError, "momentum=-1.0"),
        (lambda: CounterCurrentTrainer(mlp(), scope="all"), ValueError, "scope must be 'network'"),
        (lambda: CounterCurrentTrainer(mlp(), warmup=-1), ValueError, "warmup must not be neg"),
        (lambda: counter_current_(nn.Linear(2, 2), 2), TypeError, "must be an nn.Sequential or"),
        (lambda: counter_current_(nn.Sequential(nn.Linear(2, 2)), 2), ValueError, "two layers"),
        (lambda: split_stages(nn.Sequential(nn.ReLU())), ValueError, "a layer with weights, got"),
        (
            lambda: counter_current_(convolutional(), 4, example=torch.zeros(2, 1, 8, 8)),
            RuntimeError,
            "must match|shapes cannot",
        ),
        (
            lambda: CounterCurrentClassifier(channels=(2,)).fit(
                np.zeros((4, 2, 6)), np.array([0, 1, 0, 1])
            ),
            ValueError,
            "expected square images",
        ),
    ],
)
def test_errors_name_the_cause(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()


def test_files_of_others_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="a file that `save` wrote"):
        load(path)
    save_file({"a": torch.zeros(1)}, path, {"config": "{}"})
    with pytest.raises(ValueError, match=r"must hold one of .* got None"):
        load(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_classifier_passes_scikit_learns_own_checks():
    from sklearn.utils.estimator_checks import check_estimator

    model = CounterCurrentClassifier((32, 32), epochs=40, lr=0.3, batch_size=16, random_state=0)
    known = {
        "check_do_not_raise_errors_in_init_or_set_params": "pytest enforces the signature's types",
    }
    found = check_estimator(model, expected_failed_checks=known, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in found if r["status"] == "failed"}
    assert failed == {}, failed
    assert len(found) > 40
