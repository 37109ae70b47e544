"""Training counter-current networks, the paper's own and anybody's.

Source: [code], its two training scripts: an SGD for each of the two networks, the gradient of each
clipped as a whole, with or without centralisation and warm-up.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workingpapers.kit.local_learning import Optimiser
from workingpapers.papers.counter_current.dual import DualNetwork, weights
from workingpapers.papers.counter_current.method import CounterCurrent
from workingpapers.papers.counter_current.mirrors import mirrored, split_stages


def centralise(parameters: Sequence[nn.Parameter]) -> None:
    """Take from the gradient of every matrix and kernel its mean over all but the first axis.

    Shapes:
        Each parameter's own; vectors are left as they are.

    Source: [code], gradient centralisation.
    """
    for parameter in parameters:
        if parameter.grad is not None and parameter.ndim > 1:
            axes = tuple(range(1, parameter.ndim))
            parameter.grad -= parameter.grad.mean(dim=axes, keepdim=True)


class _Clip:
    """Runs before an optimiser's step: centralise, then clip all its gradients together."""

    def __init__(self, clip: float | None, centred: bool) -> None:
        self.clip, self.centred = clip, centred

    def __call__(self, optimiser: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        if self.centred:
            centralise(parameters)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip)


class ClippedSGD:
    """Makes an SGD that clips its whole gradient before each step; for this method and any other.

    Args:
        lr: learning rate.
        momentum: as in torch.
        weight_decay: as in torch.
        clip: longest gradient over all that one optimiser holds; None never clips.
        centralise: first take the mean from every matrix's and kernel's gradient.

    Shapes:
        None: called with parameters, gives an optimiser.

    Source: [code], its training scripts.

    >>> ClippedSGD(1.0)([nn.Parameter(torch.zeros(2))]).defaults["lr"]
    1.0
    """

    def __init__(
        self,
        lr: float | int = 1.0,
        momentum: float | int = 0.0,
        weight_decay: float | int = 0.0,
        clip: float | int | None = 1.0,
        centralise: bool = False,
    ) -> None:
        if not lr > 0 or (clip is not None and not clip > 0):
            raise ValueError(f"lr and clip must be positive, got lr={lr}, clip={clip}")
        if momentum < 0 or weight_decay < 0:
            raise ValueError(
                "momentum and weight_decay must not be negative, got "
                f"momentum={momentum}, weight_decay={weight_decay}"
            )
        self.lr, self.momentum, self.weight_decay = float(lr), float(momentum), float(weight_decay)
        self.clip, self.centralise = clip if clip is None else float(clip), centralise

    def __call__(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        made = torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        if self.clip is not None or self.centralise:
            made.register_step_pre_hook(_Clip(self.clip, self.centralise))
        return made


class CounterCurrentTrainer:
    """Trains a counter-current network batch by batch; a `LocalTrainer` of the kit.

    Args:
        network: any of this folder's, a classifier or an autoencoder.
        optimiser: parameters -> optimiser. It is called for the forward and for the feedback
            weights, so what it clips is one network; with `scope="layer"` it is called for every
            stage, and nothing at all is shared between layers.
        scope: "network" or "layer".
        warmup: steps over which the loss is scaled up from 1/warmup to 1.
        train_norms: train the scales and shifts of norms, which the released code never does.

    Shapes:
        x: `(batch, ...)`; y: `(batch,)` labels, or target images of an autoencoder.

    Source: [code], its training scripts.
    """

    def __init__(
        self,
        network: DualNetwork,
        optimiser: Optimiser | None = None,
        *,
        scope: str = "network",
        warmup: int = 0,
        train_norms: bool = False,
    ) -> None:
        if scope not in ("network", "layer"):
            raise ValueError(f"scope must be 'network' or 'layer', got {scope!r}")
        if warmup < 0:
            raise ValueError(f"warmup must not be negative, got {warmup}")
        self.network: nn.Module = network
        self._dual, self.warmup, self.steps = network, warmup, 0
        make = ClippedSGD() if optimiser is None else optimiser
        halves: list[nn.Module] = [network.up, network.down]
        if scope == "layer":
            halves = [*network.up, *network.down]
        groups = [weights(half, train_norms) for half in halves]
        self.optimisers = [make(group) for group in groups if group]

    def fit_step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Learn from one batch; the loss of every level by name."""
        self._dual.train()
        self._dual.zero_grad()
        self.steps += 1
        weight = min(1.0, self.steps / self.warmup) if self.warmup else 1.0
        found = self._dual.accumulate(x, y, weight)
        for optimiser in self.optimisers:
            optimiser.step()
        return found

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """Run the forward network in eval mode: class scores, or restored images."""
        self._dual.eval()
        return self._dual(x)


class CounterCurrentStep:
    """Trains an ordinary network by counter-current learning; call it with a batch.

    The feedback network is made for the first batch that comes, or for `example`.

    Shapes:
        x: whatever the network takes, `(batch, ...)`; y: `(batch,)`, labels 0..n_classes-1.

    Source: [ours], after [code].
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        n_classes: int,
        optimiser: Optimiser,
        loss: str | None,
        settings: dict[str, Any],
        training: dict[str, Any],
    ) -> None:
        self._stages, self._n_classes, self._optimiser = list(stages), n_classes, optimiser
        self._loss, self._settings, self._training = loss, settings, training
        self._trainer: CounterCurrentTrainer | None = None
        self.network: nn.Module = nn.ModuleList(self._stages)

    def attach(self, example: Tensor) -> CounterCurrentTrainer:
        """Make the feedback network for inputs like this one, once; the trainer that uses it."""
        if self._trainer is None:
            pairs = mirrored(self._stages, example[:1])
            maps = any(isinstance(m, nn.Conv2d) for stage in self._stages for m in stage.modules())
            loss = self._loss or ("cosine" if maps else "inner")
            network = CounterCurrent(pairs, self._n_classes, loss=loss, **self._settings)
            network.to(example.device)
            network.check(example[:1], torch.zeros(1, dtype=torch.int64, device=example.device))
            self._trainer = CounterCurrentTrainer(network, self._optimiser, **self._training)
            self.network = network
        return self._trainer

    def __call__(self, x: Tensor, y: Tensor) -> list[float]:
        return list(self.fit_step(x, y).values())

    def fit_step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Learn from one batch; the loss of every level by name."""
        return self.attach(x).fit_step(x, y)

    def scores(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Rate the classes with the forward network, in eval mode."""
        return self.attach(x).scores(x)


def counter_current_(
    network: nn.Module,
    n_classes: int,
    lr: float | int = 1.0,
    *,
    momentum: float | int = 0.0,
    weight_decay: float | int = 0.0,
    clip: float | int | None = 1.0,
    centralise: bool = False,
    optimiser: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    loss: str | None = None,
    filter_confident: bool = False,
    scope: str = "network",
    warmup: int = 0,
    train_norms: bool = True,
    example: Tensor | None = None,
) -> CounterCurrentStep | CounterCurrentTrainer:
    """Train an ordinary network without backpropagation between its layers.

    The network is trained in place: called as usual, it predicts. The feedback network is made
    from its layers and is in the returned step's `network`.

    Args:
        network: an `nn.Sequential` that ends in `n_classes` scores, cut by `split_stages`; or a
            network of this folder.
        n_classes: K.
        lr: rate of the SGD; 1 with `clip` 1 in the paper's multi-layer perceptrons.
        momentum: of the SGD, like `weight_decay`.
        weight_decay: as in torch.
        clip: longest gradient of either network.
        centralise: take the mean from every matrix's and kernel's gradient.
        optimiser: parameters -> optimiser, instead of the SGD that these five describe.
        loss: "inner" or "cosine"; by default "cosine" where there are convolutions. A network of
            this folder keeps its own, like `filter_confident`.
        filter_confident: leave samples above 0.9 out of the inner levels' losses.
        scope: "layer" clips every layer apart; then nothing is shared between layers.
        warmup: steps over which the loss is scaled up.
        train_norms: train the network's norms as well.
        example: an input batch to make the feedback network for; else the first that comes.

    Returns:
        A step: `step(x, y)` updates all levels and returns their losses. It is a trainer for
        `workingpapers.kit.local_learning.train`, and `LocalClassifier(network, counter_current_)`
        is a scikit-learn classifier.

    Shapes:
        example: `(batch, ...)`, whatever the network takes.

    Source: [ours], after [code].

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ELU(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 3))
    >>> step = counter_current_(net, n_classes=3)
    >>> sorted(step.fit_step(torch.randn(6, 4), torch.arange(6) % 3))
    ['level 0', 'level 1', 'level 2', 'readout']
    """
    made = optimiser or ClippedSGD(lr, momentum, weight_decay, clip, centralise)
    training = {"scope": scope, "warmup": warmup, "train_norms": train_norms}
    if isinstance(network, DualNetwork):
        return CounterCurrentTrainer(
            network, made, scope=scope, warmup=warmup, train_norms=train_norms
        )
    if not isinstance(network, nn.Sequential):
        raise TypeError(
            f"network must be an nn.Sequential or a network of this folder, got "
            f"{type(network).__name__}; give CounterCurrent pairs of stages for any other"
        )
    stages = split_stages(network)
    if len(stages) < 2:
        raise ValueError("network must hold two layers with weights or more, got one")
    step = CounterCurrentStep(
        stages, n_classes, made, loss, {"filter_confident": filter_confident}, training
    )
    if example is not None:
        step.attach(example)
    return step
