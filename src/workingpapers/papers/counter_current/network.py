"""The paper's networks: multi-layer perceptrons and two kinds of convolutional network.

Source: [code], LinearModel_* and CNNModel_*; the closed form of the gradients is [ours].
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.counter_current.dual import finite
from workingpapers.papers.counter_current.method import DualClassifier, activation
from workingpapers.papers.counter_current.official import place, stage_count, unwrapped

NORMS = (None, "input", "output")


def _stage(*parts: tuple[str, nn.Module | None]) -> nn.Sequential:
    return nn.Sequential(OrderedDict((name, part) for name, part in parts if part is not None))


def _layer(
    layer: nn.Module, act: str | None, norm: str | None, make: type[nn.Module], dims: Sequence[int]
) -> list[tuple[str, nn.Module | None]]:
    """A layer with its norm and activation; one without activation has no norm either [code]."""
    if act is None:
        return [("layer", layer)]
    return [
        ("norm", make(dims[0]) if norm == "input" else None),
        ("layer", layer),
        *([("norm", make(dims[1]))] if norm == "output" else []),
        ("act", activation(act)),
    ]


def _check_norms(norm: str | None, feedback_norm: str | None) -> None:
    for name, value in (("norm", norm), ("feedback_norm", feedback_norm)):
        if value not in NORMS:
            raise ValueError(f"{name} must be None, 'input' or 'output', got {value!r}")


class CounterCurrentMLP(DualClassifier):
    """A multi-layer perceptron and its mirror, trained level by level.

    With the inner-product loss and without norms the gradients are worked out in closed form: no
    graph at all, one matrix product for each of them.

    Args:
        sizes: input features and hidden widths, d_0 to d_L; the paper's are (784, 256, 256, 256,
            256, 256) and (3072, 1024, 1024, 1024).
        n_classes: K.
        act: "elu", "tanh", "relu", "leaky_relu" or "selu", in both directions.
        loss: "inner", equation (3), or "cosine", equation (4).
        scale: s or s_C; 0.5 or 1 when left out.
        decorrelation: s_S of (4).
        filter_confident: leave samples above 0.9 out of the inner levels' losses.
        norm: batch norm on a layer's "input" or "output" in the forward network.
        feedback_norm: the same in the feedback network.
        feedback_act: the feedback network's activation where it differs.
        input_level: see `CounterCurrent`, like `lean`.
        lean: hold one level's graph at a time.

    Shapes:
        x: `(batch, ...)`, flattened to `(batch, sizes[0])`; output: `(batch, n_classes)`.

    Source: [code], LinearModel_MNIST, LinearModel_CIFAR.

    >>> net = CounterCurrentMLP((12, 8, 8), 3)
    >>> sorted(net.accumulate(torch.randn(5, 12), torch.tensor([0, 1, 2, 0, 1])))
    ['level 0', 'level 1', 'level 2', 'readout']
    """

    def __init__(
        self,
        sizes: Sequence[int],
        n_classes: int,
        act: str = "elu",
        loss: str = "inner",
        *,
        scale: float | int | None = None,
        decorrelation: float | int = 0.5,
        filter_confident: bool = False,
        norm: str | None = None,
        feedback_norm: str | None = None,
        feedback_act: str | None = None,
        input_level: bool = True,
        lean: bool = True,
    ) -> None:
        super().__init__()
        _check_norms(norm, feedback_norm)
        back_act = act if feedback_act is None else feedback_act
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes must be two or more positive numbers, got {tuple(sizes)}")
        dims = [*sizes, n_classes]
        pairs: list[tuple[nn.Module, nn.Module]] = []
        for level, (below, above) in enumerate(itertools.pairwise(dims)):
            last = level == len(sizes) - 1
            up, down = nn.Linear(below, above, bias=False), nn.Linear(above, below, bias=False)
            forward = _layer(up, None if last else act, norm, nn.BatchNorm1d, (below, above))
            back = _layer(
                down, back_act if level else None, feedback_norm, nn.BatchNorm1d, (above, below)
            )
            pairs.append((_stage(*forward), _stage(*back)))
        self._settle(
            pairs, n_classes, loss, scale, decorrelation, filter_confident, input_level, lean
        )
        self.config = {
            "sizes": list(sizes), "n_classes": n_classes, "act": act, "loss": loss,
            "scale": self.scale, "decorrelation": self.decorrelation,
            "filter_confident": filter_confident, "norm": norm, "feedback_norm": feedback_norm,
            "feedback_act": feedback_act, "input_level": input_level, "lean": lean,
        }  # fmt: skip
        self.closed_form = loss == "inner" and norm is None and feedback_norm is None

    def forward(self, x: Float[Tensor, "batch *features"]) -> Float[Tensor, "batch classes"]:
        return super().forward(self._flat(x))

    def activations(self, x: Float[Tensor, "batch *features"]) -> list[Tensor]:
        """Run (1): a_0 to a_{L+1}, each with a graph that ends at the level before it."""
        return super().activations(self._flat(x))

    def _flat(self, x: Tensor) -> Tensor:
        dim, x = self.config["sizes"][0], x.flatten(1)
        if x.shape[1] != dim:
            raise ValueError(f"x: expected {dim} features, got {x.shape[1]}")
        return x

    def accumulate(self, x: Tensor, y: Tensor, weight: float = 1.0) -> dict[str, float]:
        """Add `weight` times the gradient of every local loss to its own weights."""
        x = self._flat(x)
        if not self.closed_form:
            return super().accumulate(x, y, weight)
        with torch.no_grad():
            return self._closed(x, y, weight)

    def _closed(self, x: Tensor, y: Tensor, weight: float) -> dict[str, float]:
        """The same gradients without autograd: each is one product with a small matrix G.

        With C = a_l c_l^T and G = 2 (C - Y) / (n K) * 256 s / d_l, the loss of level l sends
        G c_l to a_l and G^T a_l to c_l.
        """
        c = self._signals(self._rows())
        a = self._flat(x)
        same, keep, y = self._goal(y, lambda: self(a))
        found: dict[str, float] = {}
        for level in range(len(self.up)):
            below = a
            if level:
                a = self.up[level - 1](below)
            elif not self.input_level:
                continue
            off = (a if keep is None else a * keep.unsqueeze(1)) @ c[level].T - same
            name, size = self._name(level), a.shape[1]
            found[name] = finite(
                name,
                off.square().mean().item() / size * self.scale * 256,  # (3)
            )
            g = off.mul_(2 * 256 * self.scale * weight / (size * off.numel()))
            if keep is not None:
                g = g * keep.unsqueeze(1)
            if level:
                da = _through(self.up[level - 1], g @ c[level], a)
                _add(self.up[level - 1], da.T @ below)
            dc = _through(self.down[level], g.T @ a, c[level])
            _add(self.down[level], dc.T @ c[level + 1])
        readout = self.up[-1]
        b = readout(a)
        p = b.softmax(dim=1)
        found["readout"] = finite("readout", F.cross_entropy(b, y).item())  # (5)
        _add(readout, ((p - same) * (weight / len(x))).T @ a)
        return found

    @classmethod
    def from_official(
        cls, state: Mapping[str, Any], act: str = "elu", **settings: Any
    ) -> "CounterCurrentMLP":
        """Build the network from a state dict of the released code; sizes are read off it.

        Args:
            state: `enc{i}.forward_layer.weight` and so on, also inside `{"model": ...}`.
            act: the activation that it was trained with.
            settings: other arguments of the constructor.
        """
        state = unwrapped(state)
        count = stage_count(state)
        sizes = [state["enc1.forward_layer.weight"].shape[1]]
        sizes += [state[f"enc{i}.forward_layer.weight"].shape[0] for i in range(1, count + 1)]
        net = cls(sizes, state["output.forward_layer.weight"].shape[0], act, **settings)
        return place(net, state, [f"enc{i}" for i in range(1, count + 1)] + ["output"])


def _through(stage: nn.Module, g: Tensor, out: Tensor) -> Tensor:
    """Carry a gradient back through a stage's activation, told by its output."""
    act = getattr(stage, "act", None)
    if act is None:
        return g
    if isinstance(act, nn.Tanh):
        return g * (1 - out.square())
    if isinstance(act, nn.ReLU):
        return g * (out > 0)
    if isinstance(act, nn.LeakyReLU):
        return torch.where(out > 0, g, g * act.negative_slope)
    if isinstance(act, nn.SELU):
        alpha, scale = 1.6732632423543772, 1.0507009873554805  # torch's own
        return g * torch.where(out > 0, torch.full_like(out, scale), out + alpha * scale)
    return g * (out.clamp(max=0) + 1)  # ELU


def _add(stage: nn.Module, gradient: Tensor) -> None:
    weight = stage.get_submodule("layer").weight
    assert isinstance(weight, nn.Parameter)
    if not weight.requires_grad:
        return
    weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)


class CounterCurrentCNN(DualClassifier):
    """A convolutional network and its mirror, trained level by level.

    "pool" blocks are conv 3x3, activation, max-pool 2; "stride" blocks conv 3x3 with stride 2 and
    bias, activation. A feedback block doubles the size by repeating pixels, then conv 3x3.

    Args:
        in_channels: channels of the input.
        channels: of every block; the paper's are (128, 128, 256, 256, 512).
        n_classes: K.
        size: height and width of the input; has to be divisible by 2 once for each block.
        kind: "pool" or "stride".
        act: as for `CounterCurrentMLP`.
        loss: "cosine", equation (4), or "inner", equation (3).
        scale: s_C or s; 1 or 0.5 when left out.
        decorrelation: s_S of (4).
        filter_confident: leave samples above 0.9 out of the inner levels' losses.
        norm: batch norm on a block's "input" or "output" in the forward network.
        feedback_norm: the same in the feedback network.
        feedback_act: the feedback network's activation where it differs.
        bias: biases of the forward convolutions; by default the stride blocks have them.
        feedback_bias: of the feedback convolutions; by default as `bias`.
        input_level: see `CounterCurrent`, like `lean`.
        lean: hold one level's graph at a time.

    Shapes:
        x: `(batch, in_channels, size, size)`; output: `(batch, n_classes)`.

    Source: [code], CNNModel_Pool and the stride variant.

    >>> net = CounterCurrentCNN(1, (4, 8), 10, size=8)
    >>> [tuple(c.shape) for c in net.feedback()]
    [(10, 1, 8, 8), (10, 4, 4, 4), (10, 32), (10, 10)]
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        n_classes: int,
        size: int = 32,
        kind: str = "pool",
        act: str = "elu",
        loss: str = "cosine",
        *,
        scale: float | int | None = None,
        decorrelation: float | int = 0.5,
        filter_confident: bool = False,
        norm: str | None = None,
        feedback_norm: str | None = None,
        feedback_act: str | None = None,
        bias: bool | None = None,
        feedback_bias: bool | None = None,
        input_level: bool = True,
        lean: bool = True,
    ) -> None:
        super().__init__()
        _check_norms(norm, feedback_norm)
        if kind not in ("pool", "stride"):
            raise ValueError(f"kind must be 'pool' or 'stride', got {kind!r}")
        if not channels or size < 1 or size % 2 ** len(channels):
            raise ValueError(
                f"size must be divisible by 2 for each of {len(channels)} blocks, one or more, "
                f"got {size}"
            )
        bias = kind == "stride" if bias is None else bias
        feedback_bias = bias if feedback_bias is None else feedback_bias
        back_act = act if feedback_act is None else feedback_act
        end = size // 2 ** len(channels)
        pairs: list[tuple[nn.Module, nn.Module]] = []
        for level, (below, above) in enumerate(itertools.pairwise((in_channels, *channels))):
            last = level == len(channels) - 1
            up = nn.Conv2d(below, above, 3, 2 if kind == "stride" else 1, 1, bias=bias)
            down = nn.Conv2d(above, below, 3, 1, 1, bias=feedback_bias)
            forward = _stage(
                *_layer(up, act, norm, nn.BatchNorm2d, (below, above)),
                ("pool", nn.MaxPool2d(2) if kind == "pool" else None),
                ("flatten", nn.Flatten() if last else None),
            )
            back = _stage(
                ("unflatten", nn.Unflatten(1, (above, end, end)) if last else None),
                ("grow", nn.Upsample(scale_factor=2)),
                *_layer(
                    down, back_act if level else None, feedback_norm, nn.BatchNorm2d, (above, below)
                ),
            )
            pairs.append((forward, back))
        flat = channels[-1] * end * end
        readout, table = nn.Linear(flat, n_classes, bias=False), nn.Linear(n_classes, flat, False)
        codes = _layer(table, back_act, feedback_norm, nn.BatchNorm1d, (n_classes, flat))
        pairs.append((_stage(("layer", readout)), _stage(*codes)))
        self._settle(
            pairs, n_classes, loss, scale, decorrelation, filter_confident, input_level, lean
        )
        self.config = {
            "in_channels": in_channels, "channels": list(channels), "n_classes": n_classes,
            "size": size, "kind": kind, "act": act, "loss": loss, "scale": self.scale,
            "decorrelation": self.decorrelation, "filter_confident": filter_confident,
            "norm": norm, "feedback_norm": feedback_norm, "feedback_act": feedback_act,
            "bias": bias, "feedback_bias": feedback_bias, "input_level": input_level, "lean": lean,
        }  # fmt: skip

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        return super().forward(self._image(x))

    def activations(self, x: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
        """Run (1): a_0 to a_{L+1}, each with a graph that ends at the level before it."""
        return super().activations(self._image(x))

    def accumulate(self, x: Tensor, y: Tensor, weight: float = 1.0) -> dict[str, float]:
        """Add `weight` times the gradient of every local loss to its own weights."""
        return super().accumulate(self._image(x), y, weight)

    def _image(self, x: Tensor) -> Tensor:
        size = self.config["size"]
        want = (self.config["in_channels"], size, size)
        if x.shape[1:] != want:
            raise ValueError(f"x: expected images of shape {want}, got {tuple(x.shape[1:])}")
        return x

    @classmethod
    def from_official(
        cls, state: Mapping[str, Any], act: str = "elu", size: int = 32, **settings: Any
    ) -> "CounterCurrentCNN":
        """Build the network from a state dict of the released code; channels are read off it.

        Args:
            state: `enc{i}.forward_layer.weight` and so on, also inside `{"model": ...}`.
            act: the activation that it was trained with.
            size: height and width of its input.
            settings: other arguments of the constructor; `kind` follows from the biases if not
                given.
        """
        state = unwrapped(state)
        count = stage_count(state)
        kernels = [state[f"enc{i}.forward_layer.weight"] for i in range(1, count + 1)]
        bias = "enc1.forward_layer.bias" in state
        settings = {
            "kind": "stride" if bias else "pool",
            "bias": bias,
            "feedback_bias": "enc1.backward_layer.bias" in state,
            **settings,
        }
        net = cls(
            kernels[0].shape[1],
            [kernel.shape[0] for kernel in kernels],
            state["output.forward_layer.weight"].shape[0],
            size,
            act=act,
            **settings,
        )
        flat = state["output.forward_layer.weight"].shape[1]
        held = kernels[-1].shape[0] * (size // 2**count) ** 2
        if flat != held:
            side = math.isqrt(flat // kernels[-1].shape[0]) * 2**count
            raise ValueError(f"size: the state fits images of {side} pixels a side, got {size}")
        return place(net, state, [f"enc{i}" for i in range(1, count + 1)] + ["output"])
