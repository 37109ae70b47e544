import pytest
import torch
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.layers import ffn
from workingpapers.kit.vision import ensure_torchvision, load_timm


def llama():
    ensure_torchvision()
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return LlamaModel(config)


def gpt2():
    ensure_torchvision()
    from transformers import GPT2Config, GPT2Model

    sizes = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    return GPT2Model(GPT2Config(**sizes))


def vit():
    return load_timm().create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, embed_dim=8, num_heads=2
    )


def answer(parts, x):
    hidden = parts.up(x)
    if parts.gate is None:
        hidden = parts.activation(hidden)
    else:
        hidden = parts.activation(parts.gate(x)) * hidden
    return parts.down(hidden)


@pytest.mark.parametrize(
    ("build", "names", "hidden"),
    [
        (llama, ["layers.0.mlp", "layers.1.mlp"], 12),
        (gpt2, ["h.0.mlp", "h.1.mlp"], 32),
        (vit, ["blocks.0.mlp", "blocks.1.mlp"], 32),
    ],
)
def test_the_parts_compute_what_the_layer_does(build, names, hidden):
    found = ffn.find(build().eval())
    assert list(found) == names
    for module in found.values():
        parts = ffn.read(module)
        assert (parts.dim, parts.hidden) == (8, hidden)
        x = torch.randn(2, 3, 8)
        assert_close(answer(parts, x), module(x))


def test_only_what_is_asked_for_is_found():
    assert list(ffn.find(vit(), "blocks.1.mlp")) == ["blocks.1.mlp"]


def test_a_model_without_feed_forward_layers_is_refused_with_what_it_holds():
    with pytest.raises(ValueError, match=r"up_proj/down_proj/gate_proj .*Linear, ReLU"):
        ffn.find(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


def test_a_name_of_something_else_is_refused():
    with pytest.raises(TypeError, match=r"layers: .* blocks.0.attn is a Attention"):
        ffn.find(vit(), "blocks.0.attn", argument="layers")


class Mlp(nn.Module):
    def __init__(self, between=None, last=0.0):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(2, 4), nn.GELU(), nn.Linear(4, 2)
        self.norm = between or nn.Identity()
        self.drop2 = nn.Dropout(last)


def test_a_layer_with_a_norm_between_is_left_alone():
    assert ffn.read(Mlp(nn.LayerNorm(4))) is None
    assert ffn.read(Mlp()) is not None


def test_the_dropout_after_the_last_matrix_is_told():
    assert ffn.read(Mlp(last=0.3)).drop == 0.3
