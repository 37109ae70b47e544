"""Makes duo layers of the feed-forward layers of a model of transformers, and takes them off again.

The model's own layer stays as the big one. The small one starts as some of its neurons, or by
chance [ours], and learns by `train_small`, as the model itself was not trained for it.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor, nn

from workingpapers.kit.layers import ffn, grafting, sites
from workingpapers.papers.duo_llm.method import (
    BIG,
    MLP,
    DuoFFN,
    Router,
)
from workingpapers.papers.duo_llm.network import DuoConfig, DuoLM
from workingpapers.papers.duo_llm.routers import Batch, only
from workingpapers.papers.duo_llm.routes import duo_layers, evaluating, route
from workingpapers.papers.duo_llm.runners import IGNORED, logits, token_loss

Init = Literal["neurons", "random"]
Objective = Literal["regression", "lm"]
_KIND, _WHOLE = "duo_llm", "duo_llm.model"


@dataclass(frozen=True)
class _Grafted:
    """What a file says about a model's duo layers."""

    layers: Sequence[str]
    small_ratio: float
    allow_skip: bool
    ways: int  # of the routers; 0 without


def duo(
    model: nn.Module,
    small_ratio: float = 1 / 8,
    layers: Sequence[int] | sites.Where | None = None,
    init: str = "neurons",
    *,
    allow_skip: bool = False,
    calibration: Int[Tensor, "b t"] | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Put a small layer beside each feed-forward layer of a model, in place: (1).

    Until a route is set, the model answers as before, bit by bit.

    Args:
        model: Llama, SmolLM, Mistral, Qwen, GPT-2, GPT-NeoX or another with such layers.
        small_ratio: the small layer's size between, as a share of the big one's.
        layers: which ones, by number, or by name as in `sites.find_modules`; all unless given.
        init: "neurons" takes the neurons that answer for most, scaled to come nearest to the big
            layer; "random" draws them.
        allow_skip: whether tokens may use neither.
        calibration: token ids, on which neurons are ranked by activation and weight; without them,
            by their weights alone.
        generator: with "random", where chance comes from.

    Shapes:
        calibration: `(batch, tokens)`.

    Returns:
        The same model.

    Raises:
        ValueError: the model has no feed-forward layers that are known, or a ratio, a number or an
            `init` that cannot be.
        TypeError: a name is that of something else.
        RuntimeError: the model has duo layers already.

    Source: (1); starting from a trained model [ours].
    """
    if not 0 < small_ratio <= 1:
        raise ValueError(f"small_ratio must be above 0 and at most 1, got {small_ratio}")
    if init not in get_args(Init):
        raise ValueError(f"init must be one of {', '.join(get_args(Init))}, got {init!r}")
    bare = grafting.uncompiled(model)
    if grafting.wraps(bare, DuoFFN):
        raise RuntimeError("model has duo layers already: unwrap it first")
    found = _find(bare, layers)
    duos = {}
    for name, module in found.items():
        held = ffn.read(module)
        assert held is not None
        small = _small(held, max(1, round(small_ratio * held.hidden)), generator)
        duos[name] = DuoFFN(module, small, allow_skip=allow_skip).train(module.training)
    grafting.install(bare, duos)
    if init == "neurons":
        with evaluating(bare):
            inputs = _inputs(bare, calibration) if calibration is not None else [None] * len(duos)
            for layer, u in zip(duos.values(), inputs, strict=True):
                _take_neurons(layer, u)
    object.__setattr__(bare, "duo_ratio", small_ratio)
    return model


def unwrap(model: nn.Module) -> nn.Module:
    """Take the small layers and routers off again; what is left is the model before `duo`.

    Raises:
        ValueError: it has no duo layers.

    Source: [ours].
    """
    duo_layers(model)
    grafting.take_off(model, DuoFFN, "big")
    return model


def train_small(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    objective: str = "regression",
    lr: float = 1e-3,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Train the small layers alone, after `duo`.

    Args:
        model: after `duo`; its own weights get no gradient.
        batches: ids and the tokens after each, -100 where none is known; one step for each.
        objective: "regression" brings each small layer near to what its big one answers, as a share
            of the variance; "lm" takes the language model's loss under random routes (2).
        lr: of AdamW.
        generator: with "lm", where the routes come from.

    Shapes:
        batches: pairs of `(batch, tokens)`.

    Returns:
        The loss of every step.

    Raises:
        ValueError: an unknown objective, no batches or no duo layers.

    Source: (2); [ours].
    """
    if objective not in get_args(Objective):
        raise ValueError(
            f"objective must be one of {', '.join(get_args(Objective))}, got {objective!r}"
        )
    layers = list(duo_layers(model).values())
    parameters = [p for layer in layers for p in layer.small.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    losses = []
    with only(model, parameters):
        for ids, labels in batches:
            optimiser.zero_grad()
            if objective == "lm":
                with route(model, "random", generator=generator):
                    each = token_loss(logits(model, ids), labels)
                loss = each.sum() / (labels != IGNORED).sum().clamp_min(1)
            else:
                shares = [
                    _missed(layer, u) for layer, u in zip(layers, _inputs(model, ids), strict=True)
                ]
                loss = torch.stack(shares).mean()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    if not losses:
        raise ValueError("batches must hold one or more, got none")
    return losses


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a `DuoLM` whole, and of another model its small layers and routers alone.

    Raises:
        ValueError: the model has no duo layers.

    Source: [ours].
    """
    layers = duo_layers(model)
    routers = {layer.router.ways if layer.router else 0 for layer in layers.values()}
    if len(routers) > 1:
        raise ValueError("model must have routers of one kind in all its duo layers, or in none")
    bare = grafting.uncompiled(model)
    (ways,) = routers
    if isinstance(bare, DuoLM):
        config = {**asdict(bare.config), "ways": ways}
        grafting.write(path, bare.state_dict(), _WHOLE, config)
        return
    skips = {layer.allow_skip for layer in layers.values()}
    grafted = _Grafted(tuple(layers), float(getattr(bare, "duo_ratio", 0)), any(skips), ways)
    if not grafted.small_ratio:
        raise ValueError("model must have its duo layers from duo to be saved")
    grafting.write(path, _own(layers), _KIND, asdict(grafted))


def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """Read what `save` has written: a `DuoLM`, or small layers and routers for a model.

    Args:
        path: the file.
        model: the model that the small layers are for, bare or after `duo`; none for a `DuoLM`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind, or the model has not the layers.
        RuntimeError: tensors are missing, unknown or of another shape.

    Source: [ours].
    """
    if model is None:
        config, state = grafting.read(path, _WHOLE)
        ways = config.pop("ways")
        whole = DuoLM(DuoConfig(**config))
        _give_routers(duo_layers(whole), ways, whole.config.dim)
        grafting.copy_in(state, whole.state_dict(keep_vars=True))
        return whole
    grafted, state = grafting.read_as(path, _KIND, _Grafted)
    if not grafting.wraps(model, DuoFFN):
        names = tuple(grafted.layers)
        known = dict(grafting.uncompiled(model).named_modules())
        for name in names:
            if name not in known:
                raise ValueError(f"model must have a layer {name}, as {path} has")
        duo(
            model,
            grafted.small_ratio,
            lambda name, _: name in names,
            "random",
            allow_skip=grafted.allow_skip,
        )
    layers = duo_layers(model)
    _give_routers(layers, grafted.ways, None)
    grafting.copy_in(state, _own(layers))
    return model


def _own(layers: dict[str, DuoFFN]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, layer in layers.items()
        for key, tensor in layer.state_dict(keep_vars=True).items()
        if not key.startswith("big.")
    }


def _give_routers(layers: dict[str, DuoFFN], ways: int, dim: int | None) -> None:
    for layer in layers.values():
        like = next(layer.small.parameters())
        size = layer.small.fc1.in_features if isinstance(layer.small, MLP) else dim
        assert size is not None
        layer.router = Router(size, ways).to(like.device, like.dtype) if ways else None


def _find(model: nn.Module, layers: Sequence[int] | sites.Where | None) -> dict[str, nn.Module]:
    numbers = (
        [n for n in layers if isinstance(n, int)]
        if isinstance(layers, Sequence) and not isinstance(layers, str)
        else []
    )
    if not numbers:
        return ffn.find(model, layers, argument="layers")  # type: ignore[arg-type]
    every = ffn.find(model)
    for n in numbers:
        if not 0 <= n < len(every):
            raise ValueError(f"layers must be in 0..{len(every) - 1}, got {n}")
    return {name: module for i, (name, module) in enumerate(every.items()) if i in numbers}


def _small(held: ffn.FeedForward, hidden: int, generator: torch.Generator | None) -> MLP:
    """A layer like this one, with fewer neurons, drawn as `nn.Linear` draws."""
    like = sites.weight(held.up)
    with torch.device("meta"):
        empty = MLP(
            held.dim,
            hidden,
            activation=held.activation,
            gated=held.gate is not None,
            bias=sites.bias(held.up) is not None,
        )
    small = empty.to_empty(device=like.device).to(like.dtype)
    with torch.no_grad():
        for module in (small.fc1, small.gate, small.fc2):
            if module is not None:
                bound = module.in_features**-0.5
                for parameter in module.parameters():
                    drawn = torch.rand(parameter.shape, generator=generator)
                    parameter.copy_((2 * drawn - 1) * bound)
    return small


@torch.no_grad()
def _take_neurons(layer: DuoFFN, u: Tensor | None) -> None:
    """Make the small layer of the big one's neurons that answer for most."""
    held, small = ffn.read(layer.big), layer.small
    assert held is not None and isinstance(small, MLP)
    up, down = sites.weight(held.up), sites.weight(held.down)
    if u is None:
        reads = up.norm(dim=1) * (1 if held.gate is None else sites.weight(held.gate).norm(dim=1))
    else:
        h = held.activation((held.up if held.gate is None else held.gate)(u))
        reads = (h if held.gate is None else h * held.up(u)).abs().mean(dim=0)
    score = reads * down.norm(dim=0)
    best = score.topk(small.fc1.out_features).indices.sort().values
    for mine, theirs in ((small.fc1, held.up), (small.gate, held.gate)):
        if mine is not None and theirs is not None:
            mine.weight.copy_(sites.weight(theirs)[best])
            bias = sites.bias(theirs)
            if mine.bias is not None and bias is not None:
                mine.bias.copy_(bias[best])
    small.fc2.weight.copy_(down[:, best])
    shift = sites.bias(held.down)
    if small.fc2.bias is not None:
        small.fc2.bias.copy_(torch.zeros_like(small.fc2.bias) if shift is None else shift)
    if u is not None:  # the scale that brings it nearest to the big layer
        fixed = 0 if shift is None else shift
        mine, whole = small(u) - fixed, layer.big(u) - fixed
        small.fc2.weight.mul_((mine * whole).sum() / mine.square().sum().clamp_min(1e-30))


@torch.no_grad()
def _inputs(model: nn.Module, ids: Tensor) -> list[Tensor]:
    """What each duo layer reads, `(tokens, dim)`, where all of them are BIG."""
    seen: list[Tensor] = []

    def catch(_: int, u: Tensor) -> Tensor:
        seen.append(u.reshape(-1, u.shape[-1]))
        return torch.full(u.shape[:-1], BIG, device=u.device)

    with route(model, catch):
        logits(model, ids)
    return seen


def _missed(layer: DuoFFN, u: Tensor) -> Tensor:
    """The share of the big layer's variance that the small one misses."""
    with torch.no_grad():
        wanted = layer.big(u)
    spread = (wanted - wanted.mean(dim=0)).square().mean().clamp_min(1e-12)
    return (layer.small(u) - wanted).square().mean() / spread
