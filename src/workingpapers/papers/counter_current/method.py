"""Counter-current learning: a forward and a feedback network teach each other, level by level.

Source: Kao and Hariharan, NeurIPS 2024, arXiv:2409.19841 (its abstract; the full text was not at
hand) and the code IandRover/CCL-NeurIPS24@789a8e48 (MIT) [code]. What is marked [ours] is in
neither.

A forward network F_1..F_{L+1} runs from the input to K class scores, a feedback network
B_{L+1}..B_1 from the classes back to the size of the input. Level l holds the activation a_l
(n rows, one a sample) and the signal c_l (K rows, one a class), of the same width d_l. sg = stop
gradient, Y = 1 where a sample and a row of c share the class, and 0 elsewhere:

    (1)  a_0 = x,  a_l = F_l(sg(a_{l-1})),  b = F_{L+1}(sg(a_L))      forward           [code]
    (2)  c_{L+1} = I_K,  c_{l-1} = B_l(sg(c_l))                       feedback          [code]
    (3)  loss_l = 256 s / d_l * mean((a_l c_l^T - Y)^2)               "inner", s = 1/2  [code]
    (4)  loss_l = s_C mean((A C^T - Y)^2) + s_S mean((A A^T - I)^2)
                + s_S mean((C C^T - I)^2)                             "cosine"          [code]
         with A and C the rows of a_l and c_l divided by their length + 1e-8
    (5)  loss_{L+1} = CE(b, y)                                        the readout alone [code]
    (6)  total = sum of loss_0 .. loss_{L+1}

The stops let loss_l train F_l and B_{l+1} and nothing else; loss_0 trains B_1, CE trains F_{L+1}.
Inference uses the forward network alone. With `filter_confident`, samples whose true class has a
probability above 0.9 have their a_l set to zero in (3) and (4), and not in (5) [code].

No layer here has a bias unless it is said; layers start as torch's do, U(+-1/sqrt(fan_in)) [code].
The feedback network is fed the K class vectors once a step, not one row for every sample [code].
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.local_learning import class_numbers
from workingpapers.papers.counter_current.dual import DualNetwork

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "selu": nn.SELU,
}
LOSSES = ("inner", "cosine")
SCALES = {"inner": 0.5, "cosine": 1.0}  # s and s_C [code, defaults]
CONFIDENT = 0.9  # [code], fixed there too


def activation(name: str) -> nn.Module:
    """Make an activation by name; ValueError lists the names."""
    if name not in ACTIVATIONS:
        raise ValueError(f"act must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]()


def inner_loss(
    a: Float[Tensor, "n *features"],
    c: Float[Tensor, "rows *features"],
    same: Float[Tensor, "n rows"],
    scale: float = 0.5,
) -> Float[Tensor, ""]:
    """Pull activations toward their class's signal and away from the others', by inner products.

    Shapes:
        a: `(n, *features)`; c: `(rows, *features)`; same: `(n, rows)`, 1 where a row of `a` and
        a row of `c` share the class; output: a number.

    Source: [code], C2Loss_Classification; equation (3).

    >>> a, c = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    >>> inner_loss(a, c, torch.eye(2))
    tensor(80.)
    """
    a, c = a.flatten(1), c.flatten(1)
    return (a @ c.T - same).square().mean() / a.shape[1] * scale * 256  # (3)


def cosine_loss(
    a: Float[Tensor, "n *features"],
    c: Float[Tensor, "rows *features"],
    same: Float[Tensor, "n rows"],
    scale: float = 1.0,
    decorrelation: float = 0.5,
) -> Float[Tensor, ""]:
    """Pull activations toward their class's signal by cosines, and push the rows of each apart.

    A term that no weight can change, because its rows carry no graph, is added all the same.

    Shapes:
        a: `(n, *features)`; c: `(rows, *features)`; same: `(n, rows)`; output: a number.

    Source: [code], C2Loss_Classification_CNN_Test; equation (4).
    """
    a, c = _unit(a), _unit(c)
    loss = scale * (a @ c.T - same).square().mean()  # (4)
    for rows in (a, c):
        eye = torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
        loss = loss + decorrelation * (rows @ rows.T - eye).square().mean()
    return loss


def _unit(rows: Tensor) -> Tensor:
    rows = rows.flatten(1)
    return rows / (rows.norm(dim=1, keepdim=True) + 1e-8)


class DualClassifier(DualNetwork):
    """A `DualNetwork` that is fed classes and judged by (3) or (4), and (5); abstract.

    Shapes:
        x: `(batch, ...)`; y: `(batch,)`, labels 0..K-1; output: `(batch, K)`.

    Source: [code], equations (2) to (5).
    """

    n_classes: int
    loss: str
    scale: float
    decorrelation: float
    filter_confident: bool

    def _settle(
        self,
        pairs: Sequence[tuple[nn.Module, nn.Module]],
        n_classes: int,
        loss: str,
        scale: float | int | None,
        decorrelation: float | int,
        filter_confident: bool,
        input_level: bool,
        lean: bool,
    ) -> None:
        if loss not in LOSSES:
            raise ValueError(f"loss must be 'inner' or 'cosine', got {loss!r}")
        if n_classes < 2:
            raise ValueError(f"n_classes must be 2 or more, got {n_classes}")
        if len(pairs) < 2:
            raise ValueError(
                f"pairs must hold a hidden stage and a readout at least, got {len(pairs)} pairs"
            )
        self.up = nn.ModuleList([pair[0] for pair in pairs])
        self.down = nn.ModuleList([pair[1] for pair in pairs])
        self.n_classes, self.loss = n_classes, loss
        self.scale = float(SCALES[loss] if scale is None else scale)
        self.decorrelation, self.filter_confident = float(decorrelation), filter_confident
        self.input_level, self.lean = input_level, lean

    def feedback(self, targets: Int[Tensor, " rows"] | None = None) -> list[Tensor]:
        """Run (2): c_0 to c_{L+1}, one row for every class, or for every label in `targets`."""
        return self._signals(self._rows(targets))

    def _rows(self, targets: Tensor | None = None) -> Tensor:
        like = next(self.down.parameters())
        eye = torch.eye(self.n_classes, dtype=like.dtype, device=like.device)
        return eye if targets is None else eye[class_numbers(targets, self.n_classes)]

    def local_losses(
        self, x: Tensor, y: Tensor, targets: Int[Tensor, " rows"] | None = None
    ) -> list[Tensor]:
        """Compute the losses of all levels, (3) to (5), with one row of c for every class.

        With `targets`, the feedback network is fed these labels instead, and Y says which of them
        are a sample's own.
        """
        if targets is None:
            return super().local_losses(x, y)
        a, c = self.activations(x), self.feedback(targets)
        _, keep, y = self._goal(y, lambda: a[-1].detach())
        goal = (self._rows(y) @ c[-1].T, keep, y)
        return [self._checked(level, a[level], c[level], goal) for level in self._levels()]

    def _source(self, y: Tensor) -> Tensor:
        return self._rows()

    def _goal(
        self, y: Tensor, output: Callable[[], Tensor]
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        y = class_numbers(y, self.n_classes)
        keep = unsure(output(), y) if self.filter_confident else None
        return self._rows(y), keep, y

    def _level_loss(self, level: int, a: Tensor, c: Tensor, goal: Any) -> Tensor:
        same, keep, y = goal
        if level == len(self.up):
            return F.cross_entropy(a, y)  # (5)
        if keep is not None:
            a = a * keep.view(-1, *[1] * (a.ndim - 1))
        if self.loss == "inner":
            return inner_loss(a, c, same, self.scale)
        return cosine_loss(a, c, same, self.scale, self.decorrelation)


def unsure(
    logits: Float[Tensor, "batch classes"], y: Int[Tensor, " batch"]
) -> Bool[Tensor, " batch"]:
    """Find the samples whose true class does not yet have a probability above 0.9.

    Shapes:
        logits: `(batch, classes)`; y: `(batch,)`; output: `(batch,)`.

    Source: [code], `filter_target`, whatever its value.
    """
    p = logits.softmax(dim=1).gather(1, y.unsqueeze(1)).squeeze(1)
    return (p - 1).abs() >= 1 - CONFIDENT


class CounterCurrent(DualClassifier):
    """Trains your own forward and feedback stages by counter-current learning.

    Args:
        pairs: (forward stage, feedback stage) from the input up. The first forward stage's output
            is level 1, its feedback stage turns level 1 into the size of the input, and so on. The
            last pair is the readout, level L to K scores, and what turns K-vectors into level L.
            `make_feedback` builds a feedback stage to a forward stage.
        n_classes: K.
        loss: "inner", equation (3), or "cosine", equation (4), which the paper uses for maps.
        scale: s or s_C; 0.5 or 1 when left out.
        decorrelation: s_S.
        filter_confident: leave samples above 0.9 out of the inner levels' losses.
        input_level: keep level 0, which trains B_1 and changes nothing in the forward network
            (but through joint clipping).
        lean: hold the graph of one level at a time; costs a second run of the feedback network,
            and with `filter_confident` one of the forward network.

    Shapes:
        x: whatever the first stage takes, `(batch, ...)`; output: `(batch, n_classes)`.

    Source: [code], generalised to foreign stages [ours].

    >>> pairs = [
    ...     (nn.Sequential(nn.Linear(4, 8), nn.ELU()), nn.Linear(8, 4)),
    ...     (nn.Linear(8, 3), nn.Sequential(nn.Linear(3, 8), nn.ELU())),
    ... ]
    >>> net = CounterCurrent(pairs, 3)
    >>> [tuple(c.shape) for c in net.feedback()]
    [(3, 4), (3, 8), (3, 3)]
    """

    def __init__(
        self,
        pairs: Sequence[tuple[nn.Module, nn.Module]],
        n_classes: int,
        *,
        loss: str = "inner",
        scale: float | int | None = None,
        decorrelation: float | int = 0.5,
        filter_confident: bool = False,
        input_level: bool = True,
        lean: bool = True,
    ) -> None:
        super().__init__()
        self._settle(
            pairs, n_classes, loss, scale, decorrelation, filter_confident, input_level, lean
        )
