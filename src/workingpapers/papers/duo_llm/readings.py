"""What to read beside an oracle's loss: what hindsight alone gains, and where BIG is used."""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from workingpapers.papers.duo_llm.method import BIG
from workingpapers.papers.duo_llm.routes import evaluating, route
from workingpapers.papers.duo_llm.runners import everywhere, fitting, logits, token_loss

Noise = Literal["together", "apart"]
_ROWS = 16  # sequences in one piece of a placebo


@torch.no_grad()
def placebo(
    model: nn.Module,
    ids: Int[Tensor, "b t"],
    labels: Int[Tensor, "b t"],
    patterns: Int[Tensor, "p l"],
    noise: str = "together",
    *,
    pick: bool = True,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b t"]:
    """What hindsight alone gains: the best of noisy copies of one pattern, by the label.

    Every token's logits come from the first pattern. As many copies as there are patterns get
    normal noise, and the copy with the lowest loss counts. An oracle has to beat this before its
    routes mean anything.

    Args:
        model: as in `oracle`.
        ids: the tokens.
        labels: the token after each.
        patterns: two or more.
        noise: "together" draws a token's logits with the covariance that they have over its
            patterns; "apart" with the same spread, but each logit for itself, which moves losses
            further.
        pick: whether to take the best copy; otherwise the mean over the copies.
        generator: where the noise comes from.

    Shapes:
        ids, labels, output: `(batch, tokens)`; patterns: `(patterns, layers)`.

    Raises:
        ValueError: fewer than two patterns, or they do not fit the model; an unknown noise.

    Source: [ours]; a control that the paper does not have.
    """
    if noise not in get_args(Noise):
        raise ValueError(f"noise must be one of {', '.join(get_args(Noise))}, got {noise!r}")
    if len(patterns) < 2:
        raise ValueError(f"patterns must be two or more to have a spread, got {len(patterns)}")
    table = fitting(model, patterns)
    count = len(table)
    pieces = []
    for rows, wanted in zip(ids.split(_ROWS), labels.split(_ROWS), strict=True):
        answers = []
        for pattern in table:
            with evaluating(model), route(model, everywhere(pattern, rows)):
                answers.append(logits(model, rows).float())
        away = torch.stack(answers) - torch.stack(answers).mean(dim=0)
        losses = []
        for _ in range(count):
            if noise == "apart":
                drawn = torch.randn(answers[0].shape, generator=generator).to(away)
                moved = drawn * away.square().sum(dim=0).div(count - 1).sqrt()
            else:
                drawn = torch.randn(count, *rows.shape, generator=generator).to(away)
                moved = torch.einsum("pbt,pbtv->btv", drawn, away) / (count - 1) ** 0.5
            losses.append(token_loss(answers[0] + moved, wanted))
        each = torch.stack(losses)
        pieces.append(each.amin(dim=0) if pick else each.mean(dim=0))
    return torch.cat(pieces)


def big_share(
    routes: Int[Tensor, "l b t"], counted: Bool[Tensor, "b t"] | None = None
) -> tuple[Float[Tensor, " l"], Float[Tensor, " t"]]:
    """How often BIG is used in each layer, and at each position.

    Args:
        routes: of an oracle or a router.
        counted: tokens that are no padding; all unless given.

    Shapes:
        routes: `(layers, batch, tokens)`; output: `(layers)` and `(tokens)`.

    Source: [digest] names both figures; [ours].
    """
    kept = torch.ones_like(routes[0], dtype=torch.bool) if counted is None else counted
    big = ((routes == BIG) & kept).double()
    layer = big.sum(dim=(1, 2)) / kept.sum()
    position = big.sum(dim=(0, 1)) / (kept.sum(dim=0) * len(routes)).clamp_min(1)
    return layer.float(), position.float()


def agreement(
    ours: Int[Tensor, "l b t"],
    theirs: Int[Tensor, "l b t"],
    counted: Bool[Tensor, "b t"] | None = None,
) -> float:
    """The share of routes that two choices have in common.

    Shapes:
        ours, theirs: `(layers, batch, tokens)`; counted: `(batch, tokens)`.

    Source: abstract, routers operate differently from oracles; [ours].
    """
    same = (ours == theirs).double()
    return (same if counted is None else same[:, counted]).mean().item()
