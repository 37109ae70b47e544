import pytest
import torch
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.local_learning import (
    LocalClassifier,
    PhasedTrainer,
    assert_isolated,
    saved_bytes,
    train,
)
from workingpapers.kit.vision import load_timm
from workingpapers.papers.backprop_free import mono_forward_, split_stages


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 14), nn.ReLU(), nn.Linear(14, 5)
    )


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(40, 12, generator=g)
    return x, x[:, :5].argmax(dim=1)


def test_step_trains_a_sequential_in_place_and_it_predicts(data):
    x, y = data
    net = perceptron()
    step = mono_forward_(net, n_classes=5, lr=0.01)
    first = step(x, y)
    for _ in range(60):
        last = step(x, y)
    assert len(first) == 2 and all(b < a / 2 for a, b in zip(first, last, strict=True))
    assert (net(x).argmax(dim=1) == y).float().mean() > 0.9
    assert_close(step.scores(x), net(x))  # its last layer is the class matrix


def test_no_gradient_crosses_stages(data):
    x, y = data
    step = mono_forward_(perceptron(), n_classes=5)
    local = step.attach(x)
    losses = {str(i): loss for i, loss in local.losses(x, y)}
    owns = {i: [f"stages.{i}.", f"heads.{i}."] for i in losses}
    assert_isolated(losses, step.network, owns)


def test_memory_for_the_backward_pass_does_not_grow_with_depth():
    x, y = torch.randn(64, 16), torch.arange(64) % 5

    def peak(depth):
        layers = [m for _ in range(depth) for m in (nn.Linear(16, 16), nn.ReLU())]
        step = mono_forward_(nn.Sequential(*layers), 5, example=x)
        with saved_bytes(step.network) as saved:
            step(x, y)
        return saved.peak

    assert peak(2) == peak(5) == peak(20) > 0


@pytest.mark.parametrize("schedule", ["sequential", "simultaneous"])
def test_kits_loop_and_classifier_take_it(data, schedule):
    from functools import partial

    x, y = data
    step = mono_forward_(perceptron(), 5, 0.01, schedule=schedule, readout="sum")
    assert isinstance(step, PhasedTrainer)
    phases = train(step, x, y, epochs=3, batch_size=10)
    assert len(phases) == (2 if schedule == "sequential" else 1)
    make = partial(mono_forward_, schedule=schedule)
    model = LocalClassifier(perceptron(), make, epochs=40, lr=0.01, batch_size=10, random_state=0)
    assert model.fit(x, y).score(x, y) > 0.8


def test_stages_begin_where_weights_do():
    conv = nn.Sequential(
        nn.ZeroPad2d(1),
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    assert [len(stage) for stage in split_stages(conv)] == [4, 4, 1]
    step = mono_forward_(conv, n_classes=3)
    x, y = torch.randn(6, 1, 8, 8), torch.arange(6) % 3
    assert len(step(x, y)) == 2
    assert_close(step.scores(x), conv.eval()(x))
    with pytest.raises(ValueError, match="network must hold a layer with weights, got none"):
        split_stages(nn.Sequential(nn.ReLU()))


def test_heads_fit_maps_tokens_and_flattened_features():
    x, y = torch.randn(6, 3, 8), torch.arange(6) % 3
    tokens = mono_forward_([nn.Linear(8, 10), nn.Linear(10, 4)], 3)
    tokens(x, y)
    assert [tuple(p.shape) for p in tokens.heads.parameters()] == [(3, 10), (3, 4)]
    flat = mono_forward_([nn.Linear(8, 10), nn.Linear(10, 4)], 3, pool="flatten", example=x)
    assert [tuple(p.shape) for p in flat.heads.parameters()] == [(3, 30), (3, 12)]


def test_making_heads_moves_no_running_statistics():
    norm = nn.BatchNorm1d(4)
    net = nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 2)).train()
    mono_forward_(net, 2, example=100 * torch.ones(3, 4))
    assert norm.running_mean.abs().max() == 0 and norm.training


def test_works_on_timm_convolutions():
    timm = load_timm()
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=3, pretrained=False)
    stem = nn.Sequential(model.conv1, model.bn1, model.act1, model.maxpool)
    step = mono_forward_([stem, model.layer1, model.layer2, model.layer3, model.layer4], 3, 1e-3)
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    first = step(x, y)
    before = model.layer2[0].conv1.weight.clone()
    for _ in range(4):
        last = step(x, y)
    assert len(last) == 5 and sum(last) < sum(first)
    assert not torch.equal(before, model.layer2[0].conv1.weight)
    assert step.scores(x).shape == (4, 3)


def test_works_on_timm_transformer_blocks():
    timm = load_timm()
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=3, embed_dim=24, num_heads=2, pretrained=False
    )
    embed = nn.Sequential(model.patch_embed, model.norm_pre)
    step = mono_forward_([embed, *model.blocks], 3)
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    losses = step(x, y)
    assert len(losses) == 4
    assert_isolated(
        {str(i): loss for i, loss in step.attach(x).losses(x, y)},
        step.network,
        {str(i): [f"stages.{i}.", f"heads.{i}."] for i in range(4)},
    )


def test_bad_input_is_named():
    net = perceptron()
    with pytest.raises(ValueError, match="pool must be one of mean, flatten, got 'max'"):
        mono_forward_(net, 5, pool="max")
    with pytest.raises(ValueError, match="readout must be one of last, sum, got 'first'"):
        mono_forward_(net, 5, readout="first")
    with pytest.raises(ValueError, match="schedule must be one of simultaneous, sequential"):
        mono_forward_(net, 5, schedule="both")
    with pytest.raises(ValueError, match="n_classes must be 2 or more, got 1"):
        mono_forward_(net, 1)
    with pytest.raises(ValueError, match="stages must hold one module or more, got none"):
        mono_forward_([], 5)
    with pytest.raises(RuntimeError, match="call attach with an example"):
        mono_forward_(net, 5, schedule="sequential").begin(1)
    with pytest.raises(TypeError, match="stage 0 must return a tensor, got tuple"):
        mono_forward_([nn.LSTM(3, 4)], 5)(torch.randn(2, 5, 3), torch.tensor([0, 1]))
