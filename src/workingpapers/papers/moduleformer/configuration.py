"""What a ModuleFormer of transformers is built from, by the official names [code].

Loads transformers, so it is not imported before a language model is asked for.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.moduleformer.gate import TopKGate, check_gate
from workingpapers.papers.moduleformer.method import (
    Block,
    MixtureOfAttentionHeads,
    MixtureOfExperts,
    ModulePool,
    activation_of,
)

ensure_torchvision()
from transformers import PreTrainedConfig  # noqa: E402


class ModuleFormerConfig(PreTrainedConfig):
    """Describe a ModuleFormer by the official names.

    `block_size`, `history_length`, `layer_norm_epsilon` and `attn_pdrop` are kept for old files;
    they change nothing, as in the official code. `module_layout` is written by the surgery: for
    each block and mixture, the groups of modules as pairs of router rows and weights that are left.

    Source: [code]; `small_init` and `module_layout` are [ours], and `resid_pdrop` drops what both
    mixtures answer, which is [ours].
    """

    __no_type_check__ = True  # its __init__ takes more names than its signature tells a checker
    model_type = "moduleformer"
    attribute_map = {  # noqa: RUF012, as transformers declares it
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "block_size",
    }

    vocab_size: int = 50295
    block_size: int = 512
    history_length: int = 512
    n_embd: int = 1024
    n_layer: int = 24
    n_head: int = 8
    att_hidden: int = 512
    ffd_hidden: int = 2048
    activation_function: str = "gelu_new"
    resid_pdrop: float | int = 0.0
    embd_pdrop: float | int = 0.0
    attn_pdrop: float | int = 0.0
    moe_pdrop: float | int = 0.0
    sample_topk: int = 0
    gating_size: int = 256
    n_att_experts: int = 32
    k_att: int = 2
    n_mlp_experts: int = 32
    k_mlp: int = 2
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256
    pad_token_id: int | None = None
    aux_loss_type: str = "mi"
    aux_loss_weight: float | int = 0.0
    gate_type: str = "mlp"
    tie_word_embeddings: bool = False
    small_init: bool = True
    module_layout: list[dict[str, list[list[int]]]] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for name, experts, k in (
            ("k_att", self.n_att_experts, self.k_att),
            ("k_mlp", self.n_mlp_experts, self.k_mlp),
        ):
            if not 1 <= k <= experts:
                raise ValueError(f"{name} must be in 1..{experts}, the number of experts, got {k}")
            check_gate(experts, k, self.gate_type, self.aux_loss_type, self.sample_topk)
        if self.n_head < 1 or self.att_hidden % self.n_head:
            raise ValueError(
                f"att_hidden must be a multiple of n_head, {self.n_head}, got {self.att_hidden}"
            )
        activation_of(self.activation_function)
        if self.module_layout is not None and len(self.module_layout) != self.n_layer:
            raise ValueError(
                f"module_layout must have {self.n_layer} blocks, got {len(self.module_layout)}"
            )
        super().__post_init__(**kwargs)


def build_block(
    config: ModuleFormerConfig, layout: Mapping[str, list[list[int]]] | None = None
) -> Block:
    """One block of a config's sizes, with the groups of modules that a layout names."""

    def gate(kind: str, experts: int, k: int) -> TopKGate:
        rows = [row for row, _ in layout[kind]] if layout else [experts]
        made = TopKGate(
            config.n_embd,
            sum(rows),
            k,
            kind=config.gate_type,
            hidden=config.gating_size,
            aux=config.aux_loss_type,
            dropout=config.moe_pdrop,
            sample_top_k=config.sample_topk,
        )
        made.rows = nn.ParameterList(part.clone() for part in made.rows[0].detach().split(rows))
        return made

    att = gate("attention", config.n_att_experts, config.k_att)
    attention = MixtureOfAttentionHeads(
        config.n_embd,
        config.att_hidden,
        att.num_experts,
        config.k_att,
        config.n_head,
        gate=att,
        small_init=config.small_init,
    )
    ffd = gate("experts", config.n_mlp_experts, config.k_mlp)
    experts = MixtureOfExperts(
        config.n_embd,
        config.ffd_hidden,
        ffd.num_experts,
        config.k_mlp,
        config.activation_function,
        gate=ffd,
        small_init=config.small_init,
    )
    for name, mixture in (("attention", attention), ("experts", experts)):
        if layout:
            pool = mixture.pool
            pool.groups = nn.ModuleList(pool.new_group(held) for _, held in layout[name])
    return Block(attention, experts, dropout=config.resid_pdrop)


def layout_of(block: Block) -> dict[str, list[list[int]]]:
    """What `build_block` needs to build a block of these groups."""

    def pairs(pool: ModulePool) -> list[list[int]]:
        groups = pool.list_groups()
        return [[len(r), len(g)] for r, g in zip(pool.gate.rows, groups, strict=True)]

    attention, experts = block.parts()
    return {"attention": pairs(attention.pool), "experts": pairs(experts.pool)}


def config_dict(config: ModuleFormerConfig) -> dict[str, Any]:
    """A config's own fields, which build it again."""
    own = ModuleFormerConfig.__annotations__
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name in own}
