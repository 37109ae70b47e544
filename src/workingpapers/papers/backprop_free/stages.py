"""Mono-Forward on anybody's network: a class matrix for every stage of it.

Source: equations (1) to (4) of method.py; the forms for maps and tokens, and the use of a
network's own last layer, are [ours].
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.local_learning import LocalLosses
from workingpapers.papers.backprop_free.backprop import AdamW
from workingpapers.papers.backprop_free.method import ClassMatrix


def _mean(h: Tensor) -> Tensor:
    """Average what lies between batch and features: maps (b, c, h, w), tokens (b, n, d)."""
    if h.ndim == 4:
        return h.mean(dim=(2, 3))
    return h.mean(dim=1) if h.ndim == 3 else h


def _flat(h: Tensor) -> Tensor:
    return h.flatten(1)


POOLS: Mapping[str, Callable[[Tensor], Tensor]] = {"mean": _mean, "flatten": _flat}


class StageHead(nn.Module):
    """Score classes from a stage's output and give the stage its own loss."""

    def __init__(self, matrix: nn.Module, pool: str) -> None:
        super().__init__()
        self.matrix, self.pool = matrix, pool

    def scores(self, h: Tensor) -> Float[Tensor, "batch classes"]:
        """Goodness of each class."""
        pooled = POOLS[self.pool](h)
        if isinstance(self.matrix, ClassMatrix):
            return self.matrix.scores(pooled)
        return self.matrix(pooled)

    def forward(self, h: Tensor, y: Tensor) -> Float[Tensor, ""]:
        return F.cross_entropy(self.scores(h), y)


class MonoForwardStep:
    """Trains a network stage by stage; call it with a batch, or hand it to `train`.

    The class matrices are made for the first batch that comes, or for `example`.

    Shapes:
        x: whatever the first stage takes, `(batch, ...)`; y: `(batch,)`, int64.

    Source: [ours], from equations (1) to (4) of method.py.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        n_classes: int,
        optimiser: AdamW,
        pool: str,
        schedule: str,
        readout: str,
        last: nn.Module | None,
    ) -> None:
        self._stages, self._n_classes, self._optimiser = list(stages), n_classes, optimiser
        self._pool, self._schedule, self._readout, self._last = pool, schedule, readout, last
        self._local: LocalLosses | None = None
        self.phases = len(stages) if schedule == "sequential" else 1
        self.heads = nn.ModuleList()
        self.network: nn.Module = nn.ModuleDict(
            {"stages": nn.ModuleList(stages), "heads": self.heads}
        )

    @torch.no_grad()
    def attach(self, example: Tensor) -> LocalLosses:
        """Make the class matrices for inputs like this one, once; the trainer that uses them."""
        if self._local is not None:
            return self._local
        was = [(module, module.training) for module in self.network.modules()]
        self.network.eval()  # one sample must not move running statistics
        h = example[:1]
        for i, stage in enumerate(self._stages):
            h = stage(h)
            if not isinstance(h, Tensor):
                raise TypeError(f"stage {i} must return a tensor, got {type(h).__name__}")
            matrix: nn.Module = ClassMatrix(POOLS[self._pool](h).shape[1], self._n_classes)
            if self._last is not None and i == len(self._stages) - 1:
                matrix = self._last
            self.heads.append(StageHead(matrix.to(h.device), self._pool))
        for module, training in was:
            module.training = training
        self._local = LocalLosses(
            self._stages,
            list(self.heads),
            self._optimiser,
            self._read,
            self._schedule,
            self._score,
        )
        return self._local

    def __call__(self, x: Tensor, y: Tensor) -> list[float]:
        return list(self.fit_step(x, y).values())

    def fit_step(self, x: Tensor, y: Tensor) -> Mapping[str, float]:
        """Update the stages in training from one batch; the loss of each by name."""
        return self.attach(x).fit_step(x, y)

    def begin(self, phase: int) -> None:
        """Get ready to train one stage, or all of them."""
        if self._local is not None or phase:
            self._made().begin(phase)

    def advance(self, x: Tensor) -> Tensor:
        """Carry data through the stage that the phase before this one trained."""
        return self.attach(x).advance(x)

    def scores(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Rate the classes from the last stage, or from all of them added."""
        return self.attach(x).scores(x)

    def phase_scores(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Rate the classes with the stage in training."""
        return self._made().phase_scores(x)

    def _made(self) -> LocalLosses:
        if self._local is None:
            raise RuntimeError("the class matrices are not made yet: call attach with an example")
        return self._local

    def _score(self, stage: int, h: Tensor) -> Tensor:
        head = self.heads[stage]
        assert isinstance(head, StageHead)
        return head.scores(h)

    def _read(self, outputs: list[Tensor]) -> Tensor:
        if self._readout == "last":
            return self._score(len(outputs) - 1, outputs[-1])
        return torch.stack([self._score(i, h) for i, h in enumerate(outputs)]).sum(dim=0)


def split_stages(network: nn.Sequential) -> list[nn.Module]:
    """Cut a network into stages, one for every child that holds a matrix or kernel.

    Activations, norms and reshapes go with the child before them; those that come first, with the
    first.

    Shapes:
        None: works on modules.

    Source: [ours].

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> [len(stage) for stage in split_stages(net)]
    [3, 1]
    """
    groups: list[list[nn.Module]] = []
    leading: list[nn.Module] = []
    for child in network:
        if any(p.ndim > 1 for p in child.parameters()):
            groups.append([*leading, child])
            leading = []
        else:
            (groups[-1] if groups else leading).append(child)
    if not groups:
        raise ValueError("network must hold a layer with weights, got none")
    return [nn.Sequential(*group) for group in groups]


def mono_forward_(
    stages: nn.Sequential | nn.ModuleList | Sequence[nn.Module],
    n_classes: int,
    lr: float | int = 1e-3,
    *,
    pool: str = "mean",
    schedule: str = "simultaneous",
    readout: str = "last",
    weight_decay: float | int = 0.0,
    example: Tensor | None = None,
) -> MonoForwardStep:
    """Train any network stage by stage without backpropagation between the stages.

    The network is trained in place. Where an `nn.Sequential` ends in an `nn.Linear` with
    `n_classes` outputs, that layer serves as the last stage's class matrix, and the network
    called as usual gives the predictions.

    Args:
        stages: an `nn.Sequential`, cut by `split_stages`; or modules that are a stage each, such
            as the stem and the stages of a timm backbone.
        n_classes: K.
        lr: Adam's learning rate.
        pool: "mean" averages maps and tokens before the class matrix, "flatten" keeps all.
        schedule: "simultaneous" updates all stages at every batch; "sequential" is for `train`,
            which finishes one stage before the next.
        readout: "last" or "sum", equation (4) of method.py.
        weight_decay: decoupled, as in AdamW.
        example: an input batch to make the class matrices for; else the first batch that comes.

    Returns:
        A step: `step(x, y)` updates all stages and returns their losses. It is a trainer for
        `workingpapers.kit.local_learning.train`, and `LocalClassifier(network, mono_forward_)`
        is a scikit-learn classifier.

    Shapes:
        example: `(batch, ...)`, whatever the first stage takes.

    Source: [ours], from equations (1) to (4) of method.py.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> step = mono_forward_(net, n_classes=3)
    >>> len(step(torch.randn(6, 4), torch.arange(6) % 3))  # two layers and their losses
    2
    """
    if n_classes < 2:
        raise ValueError(f"n_classes must be 2 or more, got {n_classes}")
    for name, value, known in (
        ("pool", pool, tuple(POOLS)),
        ("readout", readout, ("last", "sum")),
        ("schedule", schedule, ("simultaneous", "sequential")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    last: nn.Module | None = None
    if isinstance(stages, nn.Sequential):
        cut = split_stages(stages)
        end = list(stages)[-1]
        if len(cut) > 1 and isinstance(end, nn.Linear) and end.out_features == n_classes:
            cut, last = cut[:-1], end
    else:
        cut = list(stages)
        if not cut:
            raise ValueError("stages must hold one module or more, got none")
    optimiser = AdamW(lr, weight_decay)
    step = MonoForwardStep(cut, n_classes, optimiser, pool, schedule, readout, last)
    if example is not None:
        step.attach(example)
    return step
