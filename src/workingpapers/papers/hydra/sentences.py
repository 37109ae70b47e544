"""Sentences about films, and the top of a real pre-trained BERT to judge them with.

Adapters stand in the two top layers of all-MiniLM-L6-v2. What the frozen layers below make of a
sentence never changes, so it is computed once. The label is whether some twenty people's mean
rating was above 0; ratings within 0.5 of it are left out.
"""

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from workingpapers.kit.data.minilm import minilm
from workingpapers.kit.data.rated_sentences import rated_sentences

TRAIN, TEST, TOP, BATCH = 480, 1000, 2, 16
Batch = tuple[Tensor, Tensor, Tensor]  # hidden states, mask of tokens, labels


class Judge(nn.Module):
    """BERT's top layers, a mean over the tokens and a linear head: hidden states to two logits."""

    def __init__(self, layers: nn.ModuleList, width: int) -> None:
        super().__init__()
        self.layers = layers
        self.head = nn.Linear(width, 2)

    def forward(
        self, hidden: Float32[Tensor, "batch n d"], mask: Float32[Tensor, "batch n"]
    ) -> Float[Tensor, "batch 2"]:
        shut = ((1 - mask) * torch.finfo(torch.float32).min)[:, None, None]
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=shut)
        mean = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return self.head(mean)


def judge() -> Judge:
    """A new one, with the layers as they were pre-trained and a head drawn anew."""
    _, bert = minilm()
    return Judge(bert.encoder.layer[-TOP:], bert.config.hidden_size)


@lru_cache(maxsize=1)
def _rated() -> tuple[list[str], Tensor]:
    """Sentences and labels in the order of the file: praise, then blame, each review together."""
    sentences, ratings = rated_sentences("movie")
    kept = (ratings.abs() > 0.5).nonzero().flatten().tolist()
    return [sentences[k] for k in kept], (ratings[kept] > 0).long()


@lru_cache(maxsize=1)
def _lower() -> tuple[Any, nn.Module]:
    tokenizer, bert = minilm()
    bert.encoder.layer = bert.encoder.layer[:-TOP]
    return tokenizer, bert


def _part(held_out: bool) -> Tensor:
    """Which sentences to learn from or to be tested on: every fifth run of 50 is held out.

    Runs, as sentences of one review stand together; many, as the file is sorted by label.
    """
    places = torch.arange(len(_rated()[0]))
    return places[(places // 50 % 5 == 4) == held_out]


def training(seed: int) -> list[Batch]:
    """Draw sentences to learn from."""
    part = _part(held_out=False)
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    return _batches(part[order[:TRAIN]])


@lru_cache(maxsize=1)
def test() -> list[Batch]:
    """Sentences of other reviews, the same for all seeds."""
    part = _part(held_out=True)
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(2**20))
    return _batches(part[order[:TEST]])


@torch.no_grad()
def _batches(chosen: Tensor) -> list[Batch]:
    """What the frozen layers make of the sentences, those of like length in one batch."""
    sentences, labels = _rated()
    tokenizer, bert = _lower()
    order = sorted(chosen.tolist(), key=lambda k: len(sentences[k]))
    batches = []
    for start in range(0, len(order), BATCH):
        ids = order[start : start + BATCH]
        given = tokenizer([sentences[k] for k in ids], padding=True, return_tensors="pt")
        hidden = bert(**given).last_hidden_state
        batches.append((hidden, given["attention_mask"].float(), labels[ids]))
    return batches
