import pytest
import torch
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.vision import ensure_torchvision, load_timm
from workingpapers.papers.neuro_hebbian.adapt import NHL, NormAdapt, Tent
from workingpapers.papers.neuro_hebbian.method import entropy
from workingpapers.papers.neuro_hebbian.stream import StreamClassifier


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4),
    ).eval()  # fmt: skip


@pytest.fixture
def stream():
    return torch.randn(5, 16, 1, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.5


def changed(before, after):
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    return {name for (name, p), q in pairs if not torch.equal(p, q)}


def test_without_steps_it_is_batch_norm_adaptation(net, stream):
    still = NHL(net, eta=0.0, lr=0.0)
    assert_close(still(stream[0]), NormAdapt(net)(stream[0]), atol=0, rtol=0)


def test_all_norms_before_the_step_is_tent(net, stream):
    nhl = NHL(net, eta=0.0, lr=1e-2, steps=2, predict="before", modulator="all-norm")
    tent = Tent(net, lr=1e-2, steps=2)
    for x in stream:
        assert_close(nhl(x), tent(x), atol=0, rtol=0)


def test_only_kernels_and_modulator_change_and_the_source_never(net, stream):
    source = {k: v.clone() for k, v in net.state_dict().items()}
    nhl = NHL(net, eta=1e-2, lr=1e-2)
    for x in stream:
        nhl(x)
    assert changed(net, nhl.net) == {"0.weight", "1.weight", "1.bias"}
    assert all(torch.equal(v, source[k]) for k, v in net.state_dict().items())
    assert nhl.hebbian.weight.grad is None and not nhl.hebbian.weight.requires_grad
    for (name, buffer), held in zip(net.named_buffers(), nhl.net.buffers(), strict=True):
        assert torch.equal(buffer, held), name


def test_the_gradient_stops_at_the_modulator(net, stream):
    """The layers above are crossed, not trained: no gradient is made for them or the kernels."""
    nhl = NHL(net, example=stream[0])
    asked = {name for name, p in nhl.net.named_parameters() if p.requires_grad}
    assert asked == {"1.weight", "1.bias"}


def test_reset_returns_bit_by_bit(net, stream):
    nhl = NHL(net, eta=1e-2, lr=1e-2, example=stream[0])
    first = [nhl(x) for x in stream]
    nhl.reset()
    assert changed(net, nhl.net) == set()
    again = [nhl(x) for x in stream]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_episodes_forget(net, stream):
    nhl = NHL(net, eta=1e-2, lr=1e-2, episodic=True)
    first = nhl(stream[0])
    nhl(stream[1])
    assert torch.equal(nhl(stream[0]), first)


def test_entropy_falls_on_the_same_batch(net, stream):
    nhl = NHL(net, eta=0.0, lr=1e-3, predict="after")
    start = entropy(NormAdapt(net)(stream[0])).mean()
    assert entropy(nhl(stream[0])).mean() < start


def test_after_and_before_are_one_step_apart(net, stream):
    after = NHL(net, eta=1e-2, lr=1e-2, steps=1, predict="after")(stream[0])
    before = NHL(net, eta=1e-2, lr=1e-2, steps=2, predict="before")(stream[0])
    assert_close(after, before)


def test_the_hebbian_step_comes_before_the_forward_pass(net, stream):
    nhl = NHL(net, eta=1e-2, lr=0.0)
    logits = nhl(stream[0])
    assert_close(logits, NormAdapt(nhl.net)(stream[0]))
    moved = (nhl.net[0].weight - net[0].weight).detach().abs().max().item()
    assert moved == pytest.approx(1e-2, rel=1e-4)


def test_keep_norm_keeps_lengths(net, stream):
    nhl = NHL(net, eta=0.1, lr=0.0, keep_norm=True)
    nhl(stream[0])
    lengths = [m.weight.flatten(1).norm(dim=1) for m in (net[0], nhl.hebbian)]
    assert_close(*lengths)
    assert not torch.equal(net[0].weight, nhl.hebbian.weight)


def test_it_works_where_gradients_are_off(net, stream):
    with torch.no_grad():
        quiet = NHL(net, lr=1e-2)(stream[0])
    assert_close(quiet, NHL(net, lr=1e-2)(stream[0]), atol=0, rtol=0)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        NHL(net)(stream[0])


def test_a_network_without_norms_gets_a_modulator(stream):
    bare = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    nhl = NHL(bare, eta=0.0, lr=1e-2, example=stream[0])
    start = bare(stream[0])
    assert_close(NHL(bare, eta=0.0, lr=0.0)(stream[0]), start)
    nhl(stream[0])
    assert nhl.inserted is not None and not torch.equal(nhl.inserted.gamma, torch.ones(3))
    nhl.reset()
    assert torch.equal(nhl.inserted.gamma, torch.ones(3))


def test_a_norm_that_reads_something_else_is_no_modulator(stream):
    odd = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 4)
    )
    nhl = NHL(odd, example=stream[0])
    assert nhl.inserted is not None
    assert NHL(odd, modulator="affine", example=stream[0]).inserted is not None


def test_the_layer_can_be_named(net, stream):
    nhl = NHL(net, layer="4", eta=1e-2, lr=1e-2)
    nhl(stream[0])
    assert changed(net, nhl.net) == {"4.weight", "5.weight", "5.bias"}


def test_state_survives_the_file(net, stream, tmp_path):
    one = NHL(net, eta=1e-2, lr=1e-2, example=stream[0])
    for x in stream[:3]:
        one(x)
    one.save(tmp_path / "nhl.safetensors")
    two = NHL(net, eta=1e-2, lr=1e-2, example=stream[0])
    two.load(tmp_path / "nhl.safetensors")
    for x in stream[3:]:
        assert torch.equal(one(x), two(x))
    other = NHL(net, layer="4", example=stream[0])
    with pytest.raises(ValueError, match=r"expected a state for .*'4'.* got one for .*'0'"):
        other.load(tmp_path / "nhl.safetensors")


def test_saved_memory_does_not_grow_along_the_stream(net, stream):
    """Nothing of a batch's graph outlives it."""
    from workingpapers.kit.local_learning import saved_bytes

    nhl = NHL(net, lr=1e-2, example=stream[0])
    with saved_bytes(net) as saved:
        nhl(stream[0])
        first = saved.peak
        for x in stream[1:]:
            nhl(x)
    assert saved.peak == first > 0
    assert saved.now == 0


@pytest.mark.slow
def test_it_adapts_timm_and_transformers_models():
    timm = load_timm()
    resnet = timm.create_model("resnet10t", num_classes=5, in_chans=1)
    x = torch.rand(4, 1, 32, 32)
    nhl = NHL(resnet, eta=1e-3, lr=1e-3)
    assert nhl(x).shape == (4, 5)
    assert nhl.layer == "conv1.0" and nhl.inserted is None
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, in_chans=1, depth=1, num_classes=5)
    patches = NHL(vit, eta=1e-3, lr=1e-3)
    assert patches(x).shape == (4, 5)
    assert patches.layer == "patch_embed.proj" and patches.inserted is not None

    ensure_torchvision()
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=32, patch_size=16, num_channels=1, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16,
    )  # fmt: skip

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = ViTForImageClassification(config)

        def forward(self, x):
            return self.model(x).logits

    wrapped = NHL(Logits(), eta=1e-3, lr=1e-3)
    assert wrapped(x).shape == (4, 2)
    assert wrapped.layer.endswith("patch_embeddings.projection")


def test_it_stands_in_a_pipeline(net, stream):
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    x = stream.flatten(0, 1).numpy()
    y = torch.randint(4, (len(x),)).numpy()
    for adapter in (NHL(net, lr=1e-2), Tent(net, lr=1e-2), NormAdapt(net), net):
        line = make_pipeline(FunctionTransformer(), StreamClassifier(adapter, batch_size=16))
        found = clone(line).fit(x, y).predict(x)
        shuffled = clone(line).fit(x, y[::-1]).predict(x)
        assert (found == shuffled).all() and found.shape == (80,)
    direct = torch.cat([batch.argmax(1) for batch in map(NHL(net, lr=1e-2), stream)])
    named = StreamClassifier(NHL(net, lr=1e-2), 16, classes=list("abcd")).fit(x)
    assert named.predict(x).tolist() == ["abcd"[i] for i in direct]
    assert named.score(x, named.fit(x).predict(x)) < 1  # the second pass goes on adapting
    with pytest.raises(Exception, match="call fit first"):
        StreamClassifier(net).predict(x)
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        StreamClassifier(net, batch_size=0).fit(x)
    with pytest.raises(ValueError, match="no parameter 'size'"):
        StreamClassifier(net).set_params(size=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eta": -1.0}, "eta must not be negative, got -1.0"),
        ({"tau": 0.0}, "tau must be positive, got 0.0"),
        ({"lr": -1.0}, "lr must not be negative, got -1.0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"predict": "now"}, "predict must be 'after' or 'before', got 'now'"),
        ({"modulator": "none"}, "modulator must be 'auto', 'affine' or 'all-norm', got 'none'"),
        ({"layer": "1"}, r"layer must name a Conv2d, one of \['0', '4'\], got '1'"),
    ],
)
def test_errors_name_the_cause(net, settings, message):
    with pytest.raises(ValueError, match=message):
        NHL(net, **settings)


def test_unfit_models_and_batches_are_refused(net, stream):
    with pytest.raises(ValueError, match=r"Sequential: no Conv2d takes part"):
        NHL(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), example=stream[0])
    with pytest.raises(ValueError, match=r"groups=1 for all channels to compete, got 2"):
        grouped = nn.Conv2d(2, 4, 3, groups=2)
        NHL(nn.Sequential(grouped, nn.Flatten()), example=torch.rand(2, 2, 8, 8))
    with pytest.raises(ValueError, match="must pad with zeros or reflections"):
        NHL(nn.Sequential(nn.Conv2d(1, 4, 3, padding="same")), example=stream[0])
    with pytest.raises(ValueError, match="no norm layer to modulate"):
        NHL(nn.Sequential(nn.Conv2d(1, 4, 3)), modulator="all-norm", example=stream[0])
    with pytest.raises(ValueError, match="no norm layer with scale and shift"):
        Tent(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="x must be finite"):
        NHL(net)(torch.full((2, 1, 8, 8), float("nan")))
    with pytest.raises(RuntimeError, match="not attached yet"):
        NHL(net).adapted_parameters()
