"""Finds the linear layers of somebody else's model, and puts others in their place.

An adapter needs three things of a foreign model: which layers, what a layer's weight is, and how to
exchange a layer without a change to the model's own code. timm and torch hold `nn.Linear`, with a
weight of (out, in); the GPT-2 family of transformers holds `Conv1D`, the same map with its weight
the other way round. Layers are called, never patched, so models of any version will do.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor, nn

Item: TypeAlias = str | re.Pattern[str] | Callable[[str, nn.Module], bool]
Where: TypeAlias = Item | Sequence[Item]
_NUMBER = re.compile(r"(^|\.)\d+(?=\.|$)")
_LISTED = 8  # names in a message


def find_linear(
    model: nn.Module, where: Where, *, argument: str = "where", whole: bool = False
) -> dict[str, nn.Module]:
    """Find the linear layers that `where` asks for, by dotted name, in the model's order.

    A layer that stands in two places comes under both names, so that both can be exchanged.

    Args:
        model: any model; itself it is never an answer, as it has no place to be exchanged in.
        where: a name's ending in whole words (`"attn.proj"` fits `blocks.0.attn.proj` and not
            `blocks.0.cross_attn.proj`), a compiled pattern that fits a whole name, a function of
            name and layer, or several of these. Each of several has to find something.
        argument: what the caller calls `where`, for messages.
        whole: take names as whole names, not as endings.

    Raises:
        ValueError: something of `where` fits no linear layer; the message lists near misses.
        TypeError: an ending names a module that is not linear, or a layer whose weight the module
            around it reads by itself, so that an exchange would change nothing.
    """
    places = dict(_named(model))
    linear = {name: module for name, module in places.items() if is_linear(module)}
    found: set[str] = set()
    for item in _items(where, argument):
        fitting = [name for name in places if name and _fits(item, name, linear, whole)]
        if isinstance(item, str):
            for name in fitting:
                if name not in linear:
                    raise TypeError(
                        f"{argument}: expected linear layers, but {item!r} names {name}, a "
                        f"{type(places[name]).__name__}; a longer name or a pattern leaves it out"
                    )
        elif isinstance(item, re.Pattern):
            fitting = [name for name in fitting if name in linear]
        if not fitting:
            raise ValueError(_nothing(model, item, list(linear), argument, "linear layer"))
        found.update(fitting)
    for name in found:
        _check_called(places, name, argument)
    return {name: module for name, module in linear.items() if name in found}


def find_modules(
    model: nn.Module, where: Where, *, argument: str = "where", whole: bool = False
) -> dict[str, nn.Module]:
    """Find modules of any kind, otherwise as `find_linear` does.

    Raises:
        ValueError: something of `where` fits no module; the message lists near misses.
    """
    places = {name: module for name, module in _named(model) if name}
    found: set[str] = set()
    for item in _items(where, argument):
        fitting = [name for name in places if _fits(item, name, places, whole)]
        if not fitting:
            raise ValueError(_nothing(model, item, list(places), argument, "module"))
        found.update(fitting)
    return {name: module for name, module in places.items() if name in found}


def replace(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put `module` where `name` stands, and return what stood there, to be put back the same way.

    Raises:
        ValueError: the model has no module of that name.
    """
    parent, _, child = name.rpartition(".")
    try:
        holder = model.get_submodule(parent)
        before = holder.get_submodule(child) if child else None
    except AttributeError:
        before = None
    if before is None:
        names = [known for known, _ in _named(model) if known]
        raise ValueError(_nothing(model, name, names, "name", "module"))
    setattr(holder, child, module)
    return before


def is_linear(module: nn.Module) -> bool:
    """Whether it is an `nn.Linear` or transformers' `Conv1D`, of this or a derived class."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def is_transposed(module: nn.Module) -> bool:
    """Whether the weight is (in, out), as transformers' `Conv1D` has it."""
    return any(
        kind.__name__ == "Conv1D" and kind.__module__.partition(".")[0] == "transformers"
        for kind in type(module).__mro__
    )


def features(layer: nn.Module) -> tuple[int, int]:
    """The sizes (in, out) of a linear layer; right for quantised ones too.

    Raises:
        TypeError: it is not a linear layer, or a lazy one that has no sizes yet.
    """
    _check_linear(layer)
    if is_transposed(layer):
        rows, columns = _tensor(layer, "weight").shape
        return rows, columns
    assert isinstance(layer, nn.Linear)
    if isinstance(layer.weight, nn.parameter.UninitializedParameter):
        raise TypeError("layer must have its sizes, got a lazy one: run the model on a batch first")
    return layer.in_features, layer.out_features


def weight(layer: nn.Module) -> Float[Tensor, "o i"]:
    """The weight as (out, in), whichever way round the layer holds it; a view.

    Raises:
        TypeError: it is not a linear layer, or a quantised one whose weight is codes.
    """
    _check_linear(layer)
    held = _tensor(layer, "weight")
    if not held.is_floating_point() or held.ndim != 2:
        raise TypeError(
            f"layer must hold its weight as a matrix of floats, got {held.dtype} of shape "
            f"{tuple(held.shape)}: a quantised layer has to be dequantised first"
        )
    return held.T if is_transposed(layer) else held


def bias(layer: nn.Module) -> Float[Tensor, " o"] | None:
    """The bias of a linear layer, if it has one."""
    _check_linear(layer)
    held = getattr(layer, "bias", None)
    return held if isinstance(held, Tensor) else None


def set_weights(
    layer: nn.Module, new_weight: Float[Tensor, "o i"], new_bias: Float[Tensor, " o"] | None
) -> None:
    """Give a linear layer new parameters, that get no gradient; the old ones stay as they are.

    So a weight that is tied to another module's is untied here, and not changed there.

    Raises:
        ValueError: sizes that are not the layer's.
    """
    i, o = features(layer)
    if new_weight.shape != (o, i) or (new_bias is not None and new_bias.shape != (o,)):
        got = None if new_bias is None else tuple(new_bias.shape)
        raise ValueError(
            f"new_weight and new_bias must be {(o, i)} and {(o,)}, got {tuple(new_weight.shape)} "
            f"and {got}"
        )
    held = new_weight.T.contiguous() if is_transposed(layer) else new_weight
    layer.register_parameter("weight", nn.Parameter(held, requires_grad=False))
    shift = None if new_bias is None else nn.Parameter(new_bias, requires_grad=False)
    layer.register_parameter("bias", shift)


def _check_linear(layer: nn.Module) -> None:
    if not is_linear(layer):
        raise TypeError(f"layer must be nn.Linear or Conv1D, got {type(layer).__name__}")


def _tensor(layer: nn.Module, name: str) -> Tensor:
    held = getattr(layer, name)
    assert isinstance(held, Tensor)
    return held


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return model.named_modules(remove_duplicate=False)


def _items(where: Where, argument: str) -> list[Item]:
    items = list(where) if isinstance(where, Sequence) and not isinstance(where, str) else [where]
    for item in items:
        if not isinstance(item, str | re.Pattern) and not callable(item):
            raise TypeError(
                f"{argument} must be a name, a compiled pattern, a function or several of these, "
                f"got {item!r}"
            )
    if not items or "" in items:
        raise ValueError(f"{argument} must name something, got {where!r}")
    return items


def _fits(item: Item, name: str, offered: dict[str, nn.Module], whole: bool) -> bool:
    if isinstance(item, str):
        return name == item or (not whole and name.endswith("." + item))
    if isinstance(item, re.Pattern):
        return item.fullmatch(name) is not None
    return name in offered and bool(item(name, offered[name]))


def _check_called(places: dict[str, nn.Module], name: str, argument: str) -> None:
    holder = places[name.rpartition(".")[0]]
    if isinstance(holder, nn.MultiheadAttention | nn.TransformerEncoderLayer):
        raise TypeError(
            f"{argument}: {name} belongs to a {type(holder).__name__}, which reads the weight "
            f"without calling the layer, so that nothing put there would have an effect"
        )


def _nothing(model: nn.Module, item: object, names: list[str], argument: str, kind: str) -> str:
    """Say what was not found, and what comes near: endings first, numbers taken as one."""
    start = f"{argument}: {type(model).__name__} has no {kind} that fits"
    endings = dict.fromkeys(_NUMBER.split(name)[-1].lstrip(".") or name for name in names)
    if not isinstance(item, str):
        shown = (
            repr(item.pattern)
            if isinstance(item, re.Pattern)
            else getattr(item, "__name__", repr(item))
        )
        return f"{start} {shown}; it has {_list(list(endings))}"
    whole = dict.fromkeys([*endings, *names])
    near = difflib.get_close_matches(item, whole, n=3, cutoff=0.6)
    last = item.rpartition(".")[2]
    near += [ending for ending in endings if ending.split(".")[-1] == last and ending not in near]
    if near:
        return f"{start} {item!r}; near it are {_list(near)}"
    return f"{start} {item!r}; it has {_list(list(endings))}"


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(map(repr, names[:_LISTED])) or "none") + more
