"""The wrappers: a classifier goes in, something that adapts as it predicts comes out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from workingpapers.papers.neuro_hebbian.method import (
    NORMS,
    Modulator,
    entropy,
    frozen_copy,
    norm_parameters,
    soft_hebbian_delta,
    use_batch_statistics,
)


def _check_batch(x: Tensor) -> None:
    if torch.is_inference_mode_enabled():
        raise RuntimeError("adapting needs gradients: call outside torch.inference_mode()")
    if not x.isfinite().all():
        raise ValueError("x must be finite, got NaN or infinity")


def _check_rates(lr: float, steps: int, predict: str) -> None:
    if lr < 0:
        raise ValueError(f"lr must not be negative, got {lr}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if predict not in ("after", "before"):
        raise ValueError(f"predict must be 'after' or 'before', got {predict!r}")


def _entropy_steps(
    net: nn.Module,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    steps: int,
    predict: str,
) -> Tensor:
    """Equation (5), `steps` times; the logits before the last step, or after it."""
    logits = torch.empty(0)
    with torch.enable_grad():  # also where the caller evaluates under no_grad
        for _ in range(steps):
            logits = net(x)
            loss = entropy(logits).mean()
            gradients = torch.autograd.grad(loss, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            optimizer.zero_grad()
    if predict == "after":
        with torch.no_grad():
            return net(x)
    return logits.detach()


class NormAdapt(nn.Module):
    """Predict with the statistics of the batch in place of the source's running averages.

    Source: tent's norm.py; the baseline that adapts no parameter.

    Args:
        model: a trained classifier; it is copied and stays as it is.

    Shapes:
        x: what the model takes; output: `(batch, classes)`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.net = frozen_copy(model)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        use_batch_statistics(self.net)
        return self.net(x)

    def reset(self) -> None:
        """Do nothing: no state is carried from batch to batch."""


class Tent(nn.Module):
    """Adapt the scales and shifts of all norm layers by the entropy of the predictions.

    Source: Wang et al., ICLR 2021, tent.py: prediction before the step, Adam, batch statistics.

    Args:
        model: a trained classifier; it is copied and stays as it is.
        lr: Adam's rate.
        steps: gradient steps for each batch.
        predict: "before" gives the logits that the last step started from, as the official code
            does; "after" those that follow it.
        episodic: start from the source again with every batch.

    Shapes:
        x: what the model takes; output: `(batch, classes)`.

    Raises:
        ValueError: a rate is negative, or the model has no norm layer with scale and shift.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-3,
        steps: int = 1,
        predict: str = "before",
        episodic: bool = False,
    ) -> None:
        super().__init__()
        _check_rates(lr, steps, predict)
        self.net = frozen_copy(model)
        self.lr, self.steps, self.predict, self.episodic = lr, steps, predict, episodic
        self._adapted = norm_parameters(self.net)
        if not self._adapted:
            raise ValueError(f"model {type(model).__name__} has no norm layer with scale and shift")
        for parameter in self._adapted:
            parameter.requires_grad_(True)
        self._source = [parameter.detach().clone() for parameter in self._adapted]
        self.optimizer = torch.optim.Adam(self._adapted, lr=lr)

    def adapted_parameters(self) -> list[nn.Parameter]:
        """What changes while it predicts."""
        return list(self._adapted)

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        _check_batch(x)
        if self.episodic:
            self.reset()
        use_batch_statistics(self.net)
        return _entropy_steps(self.net, self._adapted, self.optimizer, x, self.steps, self.predict)

    @torch.no_grad()
    def reset(self) -> None:
        """Return to the source model, bit by bit, and forget the optimiser's averages."""
        for parameter, source in zip(self._adapted, self._source, strict=True):
            parameter.copy_(source)
        self.optimizer = torch.optim.Adam(self._adapted, lr=self.lr)


class NHL(nn.Module):
    """Adapt the first convolution by competition and its modulator by the output's entropy.

    Source: arXiv:2303.00914, abstract and figure 2; equations (1) to (5). NHL as described: where
    the description is silent, the card's departures say what was chosen.

    Args:
        model: a trained classifier; it is copied and stays as it is.
        layer: the Hebbian layer, by its name in `model.named_modules()`; None takes the first
            Conv2d that a batch passes through.
        eta: largest change of a kernel's entry per batch; 0 leaves the kernels alone.
        tau: temperature of the competition, in units of the layer's responses.
        lr: Adam's rate for the modulator; 0 leaves it alone.
        steps: gradient steps for each batch.
        predict: "after" both tunings, as described; "before" gives the logits that the last
            gradient step started from.
        episodic: start from the source again with every batch.
        modulator: "auto" takes scale and shift of the norm layer that reads the Hebbian layer, or
            puts a `Modulator` behind it where none does; "affine" always puts one there;
            "all-norm" takes those of all norm layers.
        keep_norm: give each kernel back the length it had; for networks without norm layers.
        rule: see `soft_hebbian_delta`.
        example: a batch to find layer and modulator with; without it the first batch serves.

    Shapes:
        x: what the model takes; output: `(batch, classes)`.

    Raises:
        ValueError: a rate is out of range, there is no Conv2d, the layer is none or has groups, or
            no scale and shift can be adapted.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        eta: float = 1e-3,
        tau: float = 1.0,
        lr: float = 1e-3,
        steps: int = 1,
        predict: str = "after",
        episodic: bool = False,
        modulator: str = "auto",
        *,
        keep_norm: bool = False,
        rule: str = "soft",
        example: Tensor | None = None,
    ) -> None:
        super().__init__()
        _check_rates(lr, steps, predict)
        if eta < 0:
            raise ValueError(f"eta must not be negative, got {eta}")
        if not tau > 0:
            raise ValueError(f"tau must be positive, got {tau}")
        if modulator not in ("auto", "affine", "all-norm"):
            raise ValueError(f"modulator must be 'auto', 'affine' or 'all-norm', got {modulator!r}")
        self.net = frozen_copy(model)
        named = dict(self.net.named_modules())
        if layer is not None and not isinstance(named.get(layer), nn.Conv2d):
            convolutions = [n for n, m in named.items() if isinstance(m, nn.Conv2d)]
            raise ValueError(f"layer must name a Conv2d, one of {convolutions[:8]}, got {layer!r}")
        self.layer = layer
        self.eta, self.tau, self.lr, self.steps = eta, tau, lr, steps
        self.predict, self.episodic, self.modulator = predict, episodic, modulator
        self.keep_norm, self.rule = keep_norm, rule
        self.inserted: Modulator | None = None
        self._adapted: list[nn.Parameter] = []
        self._source: list[Tensor] = []
        if example is not None:
            self._attach(example)

    @torch.no_grad()
    def _attach(self, x: Tensor) -> None:
        """Find the Hebbian layer and its modulator in the order in which a batch meets them."""
        use_batch_statistics(self.net)
        names = {module: name for name, module in self.net.named_modules()}
        order: list[tuple[nn.Module, Tensor, Tensor]] = []
        watched = [m for m in names if isinstance(m, (nn.Conv2d, *NORMS))]
        handles = [
            m.register_forward_hook(lambda m, args, out: order.append((m, args[0], out)))
            for m in watched
        ]
        try:
            self.net(x)
        finally:
            for handle in handles:
                handle.remove()
        met = [entry for entry in order if isinstance(entry[0], nn.Conv2d)]
        if self.layer is not None:
            met = [entry for entry in met if names[entry[0]] == self.layer]
        if not met:
            raise ValueError(f"{type(self.net).__name__}: no Conv2d takes part in its forward pass")
        hebbian, _, response = met[0]
        assert isinstance(hebbian, nn.Conv2d)
        if hebbian.groups != 1:
            raise ValueError(
                f"layer {names[hebbian]!r} must have groups=1 for all channels to compete, got "
                f"{hebbian.groups}"
            )
        if isinstance(hebbian.padding, str) or hebbian.padding_mode not in ("zeros", "reflect"):
            raise ValueError(
                f"layer {names[hebbian]!r} must pad with zeros or reflections of a given width, "
                f"got padding {hebbian.padding!r}, mode {hebbian.padding_mode!r}"
            )
        self.layer = names[hebbian]
        if self.modulator == "all-norm":
            self._adapted = norm_parameters(self.net)
        elif self.modulator == "auto":
            readers = [m for m, read, _ in order if isinstance(m, NORMS) and read is response]
            self._adapted = norm_parameters(readers[0]) if readers else []
        if not self._adapted and self.modulator != "all-norm":
            self._insert(hebbian)
        if not self._adapted:
            raise ValueError(f"model {type(self.net).__name__} has no norm layer to modulate")
        for parameter in self._adapted:
            parameter.requires_grad_(True)
        self._source = [p.detach().clone() for p in [hebbian.weight, *self._adapted]]
        self.optimizer = torch.optim.Adam(self._adapted, lr=self.lr)

    def _insert(self, hebbian: nn.Conv2d) -> None:
        made = Modulator(hebbian.out_channels).to(hebbian.weight)
        self.inserted = made
        hebbian.register_forward_hook(lambda module, args, out: made(out))
        self._adapted = [made.gamma, made.beta]

    @property
    def hebbian(self) -> nn.Conv2d:
        """The layer that learns by competition."""
        if not self._adapted:
            raise RuntimeError("not attached yet: call it with a batch, or pass example=")
        found = self.net.get_submodule(self.layer or "")
        assert isinstance(found, nn.Conv2d)
        return found

    def adapted_parameters(self) -> list[Tensor]:
        """What changes while it predicts: the kernels, then scales and shifts."""
        return [self.hebbian.weight, *self._adapted]

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        _check_batch(x)
        if not self._adapted:
            self._attach(x)
        if self.episodic:
            self.reset()
        use_batch_statistics(self.net)
        if self.eta:
            self._compete(x)
        if not self.lr:
            with torch.no_grad():
                return self.net(x)
        return _entropy_steps(self.net, self._adapted, self.optimizer, x, self.steps, self.predict)

    @torch.no_grad()
    def _compete(self, x: Tensor) -> None:
        """Equations (1) to (3), on what reaches the layer; no graph is alive at this moment."""
        layer, seen = self.hebbian, _what_enters(self.net, self.hebbian, x)
        padding: Any = layer.padding
        if layer.padding_mode == "reflect":
            seen = nn.functional.pad(seen, layer._reversed_padding_repeated_twice, mode="reflect")
            padding = 0
        delta = soft_hebbian_delta(
            seen,
            layer.weight,
            stride=layer.stride,
            padding=padding,
            dilation=layer.dilation,
            tau=self.tau,
            rule=self.rule,
        )
        lengths = layer.weight.flatten(1).norm(dim=1)
        layer.weight += self.eta * delta.to(layer.weight.dtype)
        if self.keep_norm:
            now = layer.weight.flatten(1).norm(dim=1).clamp_min(1e-12)
            layer.weight *= (lengths / now).view(-1, 1, 1, 1)

    @torch.no_grad()
    def reset(self) -> None:
        """Return to the source model, bit by bit, and forget the optimiser's averages."""
        if not self._adapted:
            return
        for parameter, source in zip(self.adapted_parameters(), self._source, strict=True):
            parameter.copy_(source)
        self.optimizer = torch.optim.Adam(self._adapted, lr=self.lr)

    def save(self, path: str | Path) -> None:
        """Write what adaptation has changed (kernels, modulator, optimiser), and the settings."""
        tensors = {"kernels": self.hebbian.weight}
        tensors |= {f"modulator.{i}": p for i, p in enumerate(self._adapted)}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{key}": value for key, value in state.items()}
        settings = {"layer": self.layer, "modulator": self.modulator}
        save_file(
            {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()},
            path,
            {"nhl": json.dumps(settings)},
        )

    @torch.no_grad()
    def load(self, path: str | Path) -> None:
        """Go on where `save` stopped; the wrapper must be attached to the same kind of model.

        Raises:
            ValueError: the file adapts another layer, or kernels of another shape.
        """
        weight = self.hebbian.weight
        with safe_open(path, "pt") as file:
            settings = json.loads(file.metadata()["nhl"])
            tensors = {name: file.get_tensor(name) for name in _names(file)}
        expected = {"layer": self.layer, "modulator": self.modulator}
        if settings != expected:
            raise ValueError(f"{path}: expected a state for {expected}, got one for {settings}")
        if tensors["kernels"].shape != weight.shape:
            raise ValueError(
                f"{path}: kernels: expected shape {tuple(weight.shape)}, got "
                f"{tuple(tensors['kernels'].shape)}"
            )
        weight.copy_(tensors["kernels"])
        for i, parameter in enumerate(self._adapted):
            parameter.copy_(tensors[f"modulator.{i}"])
        held = self.optimizer.state_dict()
        held["state"] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                held["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(held)


def _names(file: Any) -> Iterator[str]:
    yield from file.keys()


class _Reached(Exception):
    """Ends a forward pass at the layer that was asked about."""

    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        self.seen = seen


def _what_enters(net: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """The input of `layer` for a batch; what lies above it is not run."""

    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
        raise _Reached(args[0])

    handle = layer.register_forward_pre_hook(stop)
    try:
        net(x)
    except _Reached as reached:
        return reached.seen
    finally:
        handle.remove()
    raise RuntimeError("the batch did not pass the Hebbian layer")
