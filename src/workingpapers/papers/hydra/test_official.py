import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.hydra import apply, from_official, hydra_layers, load_adapter
from workingpapers.papers.hydra.official import VTAB_SCALES

N, D = 2, 8  # blocks and width of every official state here; MLPs are 4 D wide


def branch(prefix, names, reads, rank, bias):
    """One official branch: `names` are those of down and up."""
    state = {
        f"{prefix}.{names[0]}.weight": torch.randn(rank, reads),
        f"{prefix}.{names[1]}.weight": torch.randn(D, rank),
    }
    if bias:
        state |= {f"{prefix}.{names[0]}.bias": torch.randn(rank)}
        state |= {f"{prefix}.{names[1]}.bias": torch.randn(D)}
    return state


def vtab(rank=2):
    state = {"head.weight": torch.randn(3, D), "head.bias": torch.randn(3)}
    names = ("down_proj", "up_proj")
    for n in range(N):
        for place, wide in (("mlp.hydra_mlp", 4 * D), ("attn.hydra_proj", D)):
            for kind, reads in (("par", wide), ("seq", D)):
                state |= branch(f"blocks.{n}.{place}_{kind}", names, reads, rank, True)
    return state


def elevater(learned=None):
    state, names = {}, ("down_proj", "up_proj")
    for tower in ("visual.transformer", "transformer"):
        for n in range(N):
            mlp = f"{tower}.resblocks.{n}.mlp.ad_lin"
            state |= {f"{mlp}.linear.weight": torch.randn(D, 4 * D)}
            state |= {f"{mlp}.linear.bias": torch.randn(D)}
            for kind, reads in (("par", 4 * D), ("seq", D)):
                state |= branch(f"{mlp}.adapter_{kind}", names, reads, 2, True)
                if learned == "each":
                    state[f"{mlp}.adapter_{kind}.scale"] = torch.randn(1)
            if learned == "shared":
                state[f"{mlp}.scale"] = torch.randn(1)
    for key in state:
        if key.startswith("transformer") and "up_proj" in key:
            state[key] = torch.zeros_like(state[key])
    return state


def nlu():
    state, names = {"classifier.out_proj.weight": torch.randn(2, D)}, ("hydra_A", "hydra_B")
    for n in range(N):
        for kind, reads, rank in (("par", 4 * D, 4), ("seq", D, 8)):
            prefix = f"roberta.encoder.layer.{n}.output.hydra_{kind}"
            state |= branch(prefix, names, reads, rank, False)
    return state


class Block(nn.Module):
    """Holds an MLP under the names of OpenAI's CLIP."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(D, 4 * D), "c_proj": nn.Linear(4 * D, D)})


def clip():
    def tower():
        return nn.ModuleDict({"resblocks": nn.ModuleList([Block() for _ in range(N)])})

    return nn.ModuleDict(
        {"visual": nn.ModuleDict({"transformer": tower()}), "transformer": tower()}
    )


def by_equations(layer, x, state, par, seq, names, scale):
    """What the official layer computes, from its own tensors."""
    y = layer.base(x)
    h = y
    for prefix, read, a in ((par, x, scale[0]), (seq, y, scale[1])):
        (dw, db), (uw, ub) = (
            (state[f"{prefix}.{n}.weight"], state.get(f"{prefix}.{n}.bias", torch.zeros(())))
            for n in names
        )
        h = h + a * ((read @ dw.T + db) @ uw.T + ub)
    return h


def test_a_vit_checkpoint_needs_its_scale_and_brings_its_head():
    state = vtab(rank=3)
    with pytest.raises(ValueError, match="scale must be given for a ViT checkpoint"):
        from_official(state)
    official = from_official(state, scale=VTAB_SCALES["caltech101"], dropout=0.1)
    config = official.config
    assert (config.r_par, config.r_seq, config.scale, config.dropout) == (3, 3, 4.0, 0.1)
    assert config.bias
    assert not config.learn_scale
    assert set(config.target_modules) == {
        f"blocks.{n}.{layer}" for n in range(N) for layer in ("mlp.fc2", "attn.proj")
    }
    assert config.modules_to_save == ("head",)
    assert official.base == {}
    down = official.adapter["blocks.1.mlp.fc2.par.down.weight"]
    assert down is state["blocks.1.mlp.hydra_mlp_par.down_proj.weight"]
    up = official.adapter["blocks.0.attn.proj.seq.up.bias"]
    assert up is state["blocks.0.attn.hydra_proj_seq.up_proj.bias"]


@pytest.mark.parametrize("learned", [None, "each", "shared"])
def test_a_clip_checkpoint_adapts_the_picture_tower(learned):
    state = elevater(learned)
    official = from_official(state)
    assert official.config.learn_scale == (learned is not None)
    model = clip()
    model.load_state_dict(official.base, strict=False)
    assert {k.rpartition(".")[0] for k in official.base} == {
        f"{t}transformer.resblocks.{n}.mlp.c_proj" for t in ("", "visual.") for n in range(N)
    }
    load_adapter(apply(model, official.config), official.adapter)
    layers = hydra_layers(model)
    assert [*layers] == [f"visual.transformer.resblocks.{n}.mlp.c_proj" for n in range(N)]
    x = torch.randn(5, 4 * D)
    for n, layer in enumerate(layers.values()):
        prefix = f"visual.transformer.resblocks.{n}.mlp.ad_lin"
        scale = {
            None: (1.0, 1.0),
            "each": [state.get(f"{prefix}.adapter_{k}.scale") for k in ("par", "seq")],
            "shared": [state.get(f"{prefix}.scale")] * 2,
        }[learned]
        assert torch.equal(layer.base.weight, state[f"{prefix}.linear.weight"])
        pair = (f"{prefix}.adapter_par", f"{prefix}.adapter_seq")
        expected = by_equations(layer, x, state, *pair, ("down_proj", "up_proj"), scale)
        assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_a_trained_text_tower_is_kept():
    state = elevater()
    state["transformer.resblocks.1.mlp.ad_lin.adapter_par.up_proj.bias"] = torch.ones(D)
    targets = from_official(state).config.target_modules
    assert "transformer.resblocks.1.mlp.c_proj" in targets
    assert "transformer.resblocks.0.mlp.c_proj" not in targets


def test_a_roberta_checkpoint_adapts_the_ffn_alone():
    ensure_torchvision()
    from transformers import RobertaConfig, RobertaForSequenceClassification

    state = nlu()
    official = from_official(state)
    assert (official.config.r_par, official.config.r_seq) == (4, 8)
    assert not official.config.bias
    assert official.config.scale == 1.0
    assert official.config.modules_to_save == ("classifier",)
    model = RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=20, hidden_size=D, num_hidden_layers=N, num_attention_heads=2,
            intermediate_size=4 * D, max_position_embeddings=12,
        )
    ).eval()  # fmt: skip
    tensors = official.adapter | {
        f"classifier.{key}": tensor
        for key, tensor in model.classifier.state_dict().items()
        if f"classifier.{key}" not in state
    }
    load_adapter(apply(model, official.config), tensors)
    layers = hydra_layers(model)
    assert [*layers] == [f"roberta.encoder.layer.{n}.output.dense" for n in range(N)]
    x = torch.randn(5, 4 * D)
    for n, layer in enumerate(layers.values()):
        pair = [f"roberta.encoder.layer.{n}.output.hydra_{k}" for k in ("par", "seq")]
        expected = by_equations(layer, x, state, *pair, ("hydra_A", "hydra_B"), (1, 1))
        assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_wrappings_are_seen_through(wrapper):
    state = nlu()
    wrapped = {wrapper: {f"module.{key}": tensor for key, tensor in state.items()}, "epoch": 3}
    assert [*from_official(wrapped).adapter] == [*from_official(state).adapter]


def test_other_heads_and_the_base_stand_apart():
    state = vtab() | {"blocks.0.mlp.fc2.weight": torch.zeros(D, 4 * D)}
    official = from_official(state, scale=1.0, heads=())
    assert official.config.modules_to_save == ()
    assert set(official.base) == {"head.weight", "head.bias", "blocks.0.mlp.fc2.weight"}


def test_the_nineteen_runs_have_a_scale():
    assert len(VTAB_SCALES) == 19
    assert min(VTAB_SCALES.values()) == 0.1
    assert max(VTAB_SCALES.values()) == 4.5


def test_errors_name_the_cause():
    with pytest.raises(ValueError, match=r"state must hold Hydra's branches .* got 1 tensors, x"):
        from_official({"x": torch.zeros(1)})
    with pytest.raises(TypeError, match="got int for 'epoch'"):
        from_official({**nlu(), "epoch": 3})
    state = nlu()
    key = "roberta.encoder.layer.1.output.hydra_seq.hydra_A.weight"
    state[key] = torch.randn(5, D)
    with pytest.raises(ValueError, match=r"one rank for seq.down.weight, got \[5, 8\]"):
        from_official(state)
    state = nlu()
    del state["roberta.encoder.layer.1.output.hydra_par.hydra_B.weight"]
    with pytest.raises(ValueError, match=r"lacks par.up.weight .*layer\.1\.output\.dense"):
        from_official(state)
    state = vtab()
    del state["blocks.0.mlp.hydra_mlp_par.up_proj.bias"]
    with pytest.raises(
        ValueError, match=re.escape("lacks par.up.bias of the branches at blocks.0")
    ):
        from_official(state, scale=1.0)
    state = vtab() | {"blocks.0.mlp.ad_lin.scale": torch.ones(1)}
    with pytest.raises(ValueError, match=r"one rank for par.down.weight, got \[0, 2\]"):
        from_official(state, scale=1.0)
    state = {key: tensor for key, tensor in nlu().items() if "seq.hydra_A" not in key}
    with pytest.raises(ValueError, match=r"has seq.up.weight at .* beyond whole branches"):
        from_official(state)
    state = elevater("each")
    del state["visual.transformer.resblocks.0.mlp.ad_lin.adapter_seq.scale"]
    with pytest.raises(ValueError, match="lacks scale_seq of the branches at visual"):
        from_official(state)
