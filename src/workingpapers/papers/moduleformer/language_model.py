"""ModuleFormer as a language model of transformers: saved, trained and generating like others.

Loads transformers, so it is not imported before it is asked for.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.moduleformer.configuration import ModuleFormerConfig, build_block
from workingpapers.papers.moduleformer.gate import TopKGate
from workingpapers.papers.moduleformer.method import Mixed, ModuleGroup

ensure_torchvision()
from transformers import GenerationMixin, PreTrainedModel  # noqa: E402
from transformers.cache_utils import Cache, DynamicCache  # noqa: E402
from transformers.modeling_outputs import (  # noqa: E402
    MoeCausalLMOutputWithPast,
    MoeModelOutputWithPast,
    SequenceClassifierOutputWithPast,
)


class _PreTrained(PreTrainedModel):
    config_class = ModuleFormerConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TopKGate | ModuleGroup):
            module.reset_parameters()
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class ModuleFormerModel(_PreTrained):
    """The stack of blocks between the embedding and the last norm, without a head.

    Shapes:
        input_ids: `(batch, queries)`; attention_mask: `(batch, past + queries)`, 1 where a token is
        no padding; last_hidden_state: `(batch, queries, n_embd)`.

    Source: [code].
    """

    def __init__(self, config: ModuleFormerConfig) -> None:
        super().__init__(config)
        self.wte: nn.Module = nn.Embedding(config.vocab_size, config.n_embd)
        layout = config.module_layout
        self.h = nn.ModuleList(
            build_block(config, layout[i] if layout else None) for i in range(config.n_layer)
        )
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.wte = value

    def forward(
        self,
        input_ids: Int[Tensor, "batch queries"] | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Int[Tensor, "batch queries"] | None = None,
        inputs_embeds: Float[Tensor, "batch queries d"] | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **ignored: Any,  # positions, which there are none of
    ) -> Any:
        found = self._run(
            input_ids, attention_mask, token_type_ids, inputs_embeds, cache, use_cache,
            output_attentions, output_hidden_states,
        )  # fmt: skip
        answer = MoeModelOutputWithPast(
            last_hidden_state=found.hidden,
            cache=found.cache,
            hidden_states=found.states,
            attentions=found.attentions,
            router_logits=found.logits,
        )
        return answer if _as_dict(self.config, return_dict) else answer.to_tuple()

    def _run(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        cache: Cache | None,
        use_cache: bool | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> "_Found":
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids or inputs_embeds must be given, and not both")
        x = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        if token_type_ids is not None:
            x = x + self.wte(token_type_ids)  # the same table [code]
        x = F.dropout(x, self.config.embd_pdrop, self.training)
        config = self.config
        keep = config.use_cache if use_cache is None else use_cache
        checkpointed = self.gradient_checkpointing and self.training
        if not keep or checkpointed:
            cache = None
        elif cache is None:
            cache = DynamicCache()
        before = 0 if cache is None else cache.get_seq_length()
        padding = _padding(attention_mask, x.shape[0], before + x.shape[1])
        weigh = config.output_attentions if output_attentions is None else output_attentions
        all_states = (
            config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        states, mixed = [], []
        for i, block in enumerate(self.h):
            states.append(x)
            past = _past(cache, i) if before else None
            if checkpointed:
                x, *both = self._gradient_checkpointing_func(
                    block.__call__, x, padding, past, bool(weigh)
                )
            else:
                x, *both = block(x, padding, past, bool(weigh))
            mixed.append(both)
            if cache is not None:
                _extend(cache, i, both[0], before)
        x = self.ln_f(x)
        return _Found(
            x,
            torch.stack([m.routed.loss for both in mixed for m in both]).sum(),
            cache,
            (*states, x) if all_states else None,
            tuple(both[0].weights for both in mixed) if weigh else None,
            tuple(m.routed.logits for both in mixed for m in both),
        )


class ModuleFormerForCausalLM(_PreTrained, GenerationMixin):
    """The language model: `generate`, `save_pretrained` and training with the auxiliary loss.

    Shapes:
        input_ids: `(batch, queries)`; attention_mask: `(batch, past + queries)`, 1 where a token is
        no padding, on either side; labels: `(batch, queries)`, -100 where there is nothing to
        learn; logits: `(batch, queries, vocab_size)`.

    Source: [code]. loss = next-token cross-entropy + `aux_loss_weight` times the sum of all gates'
    losses, padding included.
    """

    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}  # noqa: RUF012

    def __init__(self, config: ModuleFormerConfig) -> None:
        super().__init__(config)
        self.transformer = ModuleFormerModel(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Int[Tensor, "batch queries"] | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Int[Tensor, "batch queries"] | None = None,
        inputs_embeds: Float[Tensor, "batch queries d"] | None = None,
        cache: Cache | None = None,
        labels: Int[Tensor, "batch queries"] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int = 0,
        **ignored: Any,
    ) -> Any:
        found = self.transformer._run(
            input_ids, attention_mask, token_type_ids, inputs_embeds, cache, use_cache,
            output_attentions, output_hidden_states,
        )  # fmt: skip
        logits = self.lm_head(found.hidden[:, -logits_to_keep:]).float()
        loss = None
        if labels is not None:
            if logits_to_keep:
                raise ValueError("logits_to_keep must be 0 where labels are given")
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            loss = self._with_auxiliary(loss, found.auxiliary)
        answer = MoeCausalLMOutputWithPast(
            loss=loss,
            aux_loss=found.auxiliary,
            logits=logits,
            cache=found.cache,
            hidden_states=found.states,
            attentions=found.attentions,
            router_logits=found.logits,
        )
        return answer if _as_dict(self.config, return_dict) else answer.to_tuple()

    def _with_auxiliary(self, loss: Tensor, auxiliary: Tensor) -> Tensor:
        weight = self.config.aux_loss_weight
        return loss + weight * auxiliary if weight > 0 else loss


class ModuleFormerForSequenceClassification(_PreTrained):
    """Labels for whole sequences, read off the last token that is no padding.

    The last token is the one at the count of tokens other than `pad_token_id`, less one: padding
    stands on the right.

    Shapes:
        input_ids: `(batch, queries)`; labels: `(batch)`, or `(batch, labels)` for several;
        logits: `(batch, labels)`.

    Source: [code]; the auxiliary loss in training is [ours].
    """

    def __init__(self, config: ModuleFormerConfig) -> None:
        super().__init__(config)
        self.transformer = ModuleFormerModel(config)
        self.score = nn.Linear(config.n_embd, int(config.num_labels or 2), bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "batch queries"],
        attention_mask: Tensor | None = None,
        token_type_ids: Int[Tensor, "batch queries"] | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **ignored: Any,
    ) -> Any:
        config, batch = self.config, len(input_ids)
        if config.pad_token_id is None and batch != 1:
            raise ValueError(f"pad_token_id must be in the config for a batch of {batch}, got None")
        found = self.transformer._run(
            input_ids, attention_mask, token_type_ids, None, None, use_cache,
            output_attentions, output_hidden_states,
        )  # fmt: skip
        length = input_ids.shape[1]
        last = torch.full((batch,), length - 1, device=input_ids.device)
        if config.pad_token_id is not None:
            last = (input_ids != config.pad_token_id).sum(-1) - 1
        rows = torch.arange(batch, device=input_ids.device)
        logits = self.score(found.hidden[rows, last])
        loss = None
        if labels is not None:
            loss = _label_loss(logits, labels)
            if config.aux_loss_weight > 0:
                loss = loss + config.aux_loss_weight * found.auxiliary
        answer = SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            cache=found.cache,
            hidden_states=found.states,
            attentions=found.attentions,
        )
        return answer if _as_dict(config, return_dict) else answer.to_tuple()


class _Found(NamedTuple):
    hidden: Tensor
    auxiliary: Tensor
    cache: Cache | None
    states: tuple[Tensor, ...] | None
    attentions: tuple[Any, ...] | None
    logits: Any


def _as_dict(config: Any, given: bool | None) -> bool:
    return bool(config.return_dict if given is None else given)


def _padding(mask: Tensor | None, batch: int, length: int) -> Tensor | None:
    if mask is None:
        return None
    if mask.shape != (batch, length):
        raise ValueError(
            f"attention_mask must be {(batch, length)}, past and present together, got "
            f"{tuple(mask.shape)}"
        )
    padding = mask == 0
    return padding if bool(padding.any()) else None


def _past(cache: Cache | None, layer: int) -> tuple[Tensor, Tensor] | None:
    if cache is None:
        return None
    held: Any = cache.layers[layer]
    return held.keys.squeeze(1), held.values.squeeze(1)


def _extend(cache: Cache, layer: int, seen: Mixed, before: int) -> None:
    """Keep what is new, as transformers does, in one head; without gradients [code]."""
    assert seen.keys is not None and seen.values is not None
    keys, values = (t[:, before:].detach().unsqueeze(1) for t in (seen.keys, seen.values))
    cache.update(keys, values, layer)


def _label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """One label of several, several at once, or a number, by the labels' type and shape."""
    if not labels.is_floating_point():
        return F.cross_entropy(logits, labels)
    if logits.shape[1] == 1:
        return F.mse_loss(logits.squeeze(1), labels.reshape(-1))
    return F.binary_cross_entropy_with_logits(logits, labels)
