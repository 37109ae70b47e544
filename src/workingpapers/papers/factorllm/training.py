"""What a model that is cut learns by: the loss, its parts, and the rate at each step."""

import math
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workingpapers.papers.factorllm.graft import factorized_layers
from workingpapers.papers.factorllm.method import Lesson


@dataclass(frozen=True)
class FactorLLMLoss:
    """The whole loss: the language model's, and the routers' two: L + w (5) + v (6).

    With both weights at zero it is what the released code differentiates.

    Args:
        route_weight: w, of the sum of (5) over the layers.
        balance_weight: v, of the sum of (6) over the layers.

    Shapes:
        lm_loss, output: scalars.

    Source: [code]: the weights, and the sum, which stands in a comment.
    """

    route_weight: float = 0.05
    balance_weight: float = 0.01

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value >= 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")

    def __call__(self, model: nn.Module, lm_loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        total = lm_loss
        if self.route_weight:
            total = total + self.route_weight * pa_loss(model)
        if self.balance_weight:
            total = total + self.balance_weight * balance_loss(model)
        return total


def pa_loss(model: nn.Module) -> Float[Tensor, ""]:
    """The prior-approximate loss (5) of the last forward in training, summed over the layers.

    Shapes:
        output: a scalar.

    Raises:
        RuntimeError: there was none, or the teachers are gone.

    Source: (5); [code].
    """
    losses = [lesson.pa for lesson in _lessons(model, "pa_loss")]
    kept = [loss for loss in losses if loss is not None]
    if len(kept) < len(losses):
        raise RuntimeError(
            "pa_loss needs the teachers, which finalize or strip_teacher has dropped"
        )
    return torch.stack(kept).sum()


def balance_loss(model: nn.Module) -> Float[Tensor, ""]:
    """The balance loss (6) of the last forward in training, summed over the layers.

    Shapes:
        output: a scalar.

    Raises:
        RuntimeError: there was no such forward.

    Source: (6); [code].
    """
    return torch.stack([lesson.balance for lesson in _lessons(model, "balance_loss")]).sum()


def router_agreement(model: nn.Module) -> dict[str, float]:
    """Which share of the experts that a teacher named its router chose, in the last training pass.

    A router that draws has K / N.

    Raises:
        RuntimeError: there was no such pass, or the teachers are gone.

    Source: [ours].
    """
    found = {}
    for name, layer in factorized_layers(model).items():
        lesson = layer.lesson
        if lesson is None or lesson.label is None:
            raise RuntimeError("router_agreement needs a forward in training, with teachers")
        chosen = lesson.logits.topk(layer.top_k, dim=-1).indices
        hits = lesson.label.gather(-1, chosen)
        found[name] = (hits if layer.counted is None else hits[layer.counted]).mean().item()
    return found


def schedule(step: int, *, warmup: int = 500, total: int = 10_000, floor: float = 0.001) -> float:
    """The share of the peak rate at a step: straight up, then a cosine down to `floor`.

    Source: [code].

    >>> schedule(250), schedule(5250), schedule(10_000)
    (0.5, 0.5, 0.001)
    """
    if not 0 <= warmup < total:
        raise ValueError(f"warmup must be in 0..{total - 1}, below total, got {warmup}")
    if step < warmup:
        return step / warmup
    turn = math.pi * (step - warmup) / (total - warmup)
    return max(floor, 0.5 * (1 + math.cos(turn))) if step < total else floor


def _lessons(model: nn.Module, asked: str) -> list[Lesson]:
    lessons = [layer.lesson for layer in factorized_layers(model).values()]
    kept = [lesson for lesson in lessons if lesson is not None]
    if len(kept) < len(lessons):
        raise RuntimeError(f"{asked} needs a forward in training first")
    return kept
