"""Reads the feed-forward layers of somebody else's model, whatever names they go by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from workingpapers.kit.layers import sites

# up, down, gate: Llama, Mistral, Qwen, Gemma; timm, torch; GPT-2; Falcon and NeoX.
_NAMES = (
    ("up_proj", "down_proj", "gate_proj"),
    ("fc1", "fc2", None),
    ("c_fc", "c_proj", None),
    ("dense_h_to_4h", "dense_4h_to_h", None),
)
_ACTIVATIONS = ("act_fn", "act", "activation_fn", "activation")
_DROPS = ("drop", "drop1", "drop2", "dropout")


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward layer in parts: `down(act(up x))`, or `down(act(gate x) * up x)`."""

    up: nn.Module
    down: nn.Module
    gate: nn.Module | None
    activation: Callable[[Tensor], Tensor]
    names: tuple[str, ...]  # of up, down and gate, in the module
    drop: float = 0.0  # after the last matrix, in training

    @property
    def dim(self) -> int:
        """The size of a token."""
        return sites.features(self.up)[0]

    @property
    def hidden(self) -> int:
        """The size between."""
        return sites.features(self.up)[1]


def read(module: nn.Module) -> FeedForward | None:
    """Take a feed-forward layer apart; none where it is not one that we know.

    A layer with anything else in it (a norm between the matrices, a dropout there, a gate and value
    in one matrix) is not taken, as the parts alone would not be the whole.
    """
    children = dict(module.named_children())
    for up, down, gate in _NAMES:
        wanted = [name for name in (up, down, gate) if name]
        if not all(name in children and sites.is_linear(children[name]) for name in wanted):
            continue
        activation = _activation(children)
        drop = _drop(children, wanted)
        if activation is None or drop is None:
            return None
        parts = children[up], children[down], children[gate] if gate else None
        (i, hidden), (between, o) = sites.features(parts[0]), sites.features(parts[1])
        if hidden != between or i != o:
            return None
        return FeedForward(*parts, activation, tuple(wanted), drop)
    return None


def find(
    model: nn.Module, where: sites.Where | None = None, *, argument: str = "where"
) -> dict[str, nn.Module]:
    """Find a model's feed-forward layers, by dotted name, in the model's order.

    Args:
        model: any model.
        where: takes only those that fit, as in `sites.find_modules`; all unless given.
        argument: what the caller calls `where`, for messages.

    Raises:
        ValueError: there is none, or something of `where` fits none.
        TypeError: `where` names something that is not a feed-forward layer.
    """
    if where is not None:
        found = sites.find_modules(model, where, argument=argument)
        for name, module in found.items():
            if read(module) is None:
                raise TypeError(
                    f"{argument}: expected feed-forward layers, but {name} is a "
                    f"{type(module).__name__} without the parts that are known: {_known()}"
                )
        return found
    every: Mapping[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    found = {name: module for name, module in every.items() if name and read(module) is not None}
    if not found:
        kinds = sorted({type(module).__name__ for module in every.values()})
        raise ValueError(
            f"model must hold feed-forward layers with {_known()}; {type(model).__name__} has "
            f"modules of {', '.join(kinds[:12])}{' and more' if len(kinds) > 12 else ''}"
        )
    return found


def _known() -> str:
    return " or ".join("/".join(name for name in names if name) for names in _NAMES)


def _activation(children: Mapping[str, nn.Module]) -> Callable[[Tensor], Tensor] | None:
    for name in _ACTIVATIONS:
        if name in children:
            return children[name]
    return None


def _drop(children: Mapping[str, nn.Module], wanted: list[str]) -> float | None:
    """The dropout after the last matrix; none where other parts are in the way."""
    last = 0.0
    for name, child in children.items():
        if name in wanted or name in _ACTIVATIONS or isinstance(child, nn.Identity):
            continue
        if name not in _DROPS or not isinstance(child, nn.Dropout):
            return None
        if name != "drop1":
            last = child.p
        elif child.p:
            return None
    return last
