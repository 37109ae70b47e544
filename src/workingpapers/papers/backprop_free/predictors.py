"""Linear classifiers on frozen features, as Cascaded-Forward trains them after every block.

Source: [cafo]; marks as in method.py. X (n, F) features, Y (n, K) one-hot labels, W (F, K):

    (1)  least squares    W = (X^T X + ridge I)^-1 X^T Y, the pseudoinverse where that fails
    (2)  descent          W_0 = 1;  W <- W - step (mean_b x (p - y)^T + decay W), p = link(x W)
    (3)  sparsemax(z)     = max(z - tau, 0); with z sorted down, k the largest index that has
                          1 + k z_(k) > z_(1) + .. + z_(k), and tau = (z_(1) + .. + z_(k) - 1) / k
    (4)  its loss         = sum_j [-z_j y_j + 1(p_j > 0) (z_j^2 - tau^2) / 2 + 1/2], so that its
                          gradient is p - y; the last 1/2 counts once for every class
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

LINKS = ("softmax", "sparsemax")


def sparsemax_threshold(z: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch 1"]:
    """What sparsemax takes off every score, tau of equation (3)."""
    down = z.sort(dim=-1, descending=True).values
    total = down.cumsum(dim=-1)
    count = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    k = (1 + count * down > total).sum(dim=-1, keepdim=True)
    return (total.gather(-1, k - 1) - 1) / k


def sparsemax(z: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """Project scores onto probabilities, of which many are exactly 0.

    Shapes:
        z: `(*batch, classes)`; output: the same, rows sum to 1.

    Source: [cafo], equation (3).

    >>> sparsemax(torch.tensor([2.0, 1.5, -1.0]))
    tensor([0.7500, 0.2500, 0.0000])
    """
    return (z - sparsemax_threshold(z)).clamp(min=0)  # (3)


def sparsemax_loss(
    z: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
) -> Float[Tensor, ""]:
    """Train scores for sparsemax, as cross entropy does for softmax; mean over the batch.

    Shapes:
        z: `(batch, classes)`; labels: `(batch,)`, or one-hot `(batch, classes)`.

    Source: [cafo], equation (4).
    """
    y = labels if labels.is_floating_point() else F.one_hot(labels, z.shape[1]).to(z.dtype)
    tau = sparsemax_threshold(z)
    inside = (z > tau).to(z.dtype)
    each = -z * y + 0.5 * inside * (z.square() - tau.square()) + 0.5  # (4)
    return each.sum(dim=1).mean()


def least_squares(
    batches: Iterable[tuple[Float[Tensor, "_ features"], Int[Tensor, " _"]]],
    n_classes: int,
    ridge: float | int = 0.0,
) -> Float[Tensor, "features classes"]:
    """Solve for the classifier in closed form, with features that arrive in batches.

    Only X^T X and X^T Y are kept, never all features.

    Args:
        batches: features and labels.
        n_classes: K.
        ridge: added to the diagonal; with more features than samples it should be positive.

    Shapes:
        batches: `(n, features)` and `(n,)`; output: `(features, classes)`.

    Source: [cafo], equation (1); `ridge` is [ours].
    """
    if ridge < 0:
        raise ValueError(f"ridge must not be negative, got {ridge}")
    gram = cross = None
    for x, y in batches:
        target = F.one_hot(y, n_classes).to(x.dtype)
        if gram is None or cross is None:
            gram, cross = x.T @ x, x.T @ target
        else:
            gram.addmm_(x.T, x)
            cross.addmm_(x.T, target)
    if gram is None or cross is None:
        raise ValueError("batches must hold at least one batch, got none")
    gram.diagonal().add_(ridge)
    lower, failed = torch.linalg.cholesky_ex(gram)
    if not failed.item():
        solved = torch.cholesky_solve(cross, lower)
        if solved.isfinite().all():
            return solved  # (1)
    return torch.linalg.pinv(gram, hermitian=True) @ cross


def descend(
    x: Float[Tensor, "n features"],
    y: Int[Tensor, " n"],
    n_classes: int,
    *,
    epochs: int = 5000,
    batches: int = 1,
    step: float | int = 0.01,
    decay: float | int = 0.0,
    link: str = "softmax",
) -> Float[Tensor, "features classes"]:
    """Train the classifier by plain gradient descent from all ones, batches in fixed order.

    Args:
        x: features.
        y: labels.
        n_classes: K.
        epochs: passes over the data.
        batches: into how many the data is cut.
        step: size of a step.
        decay: weight decay, which the released code leaves out at 1e-4 and below.
        link: "softmax" or "sparsemax".

    Shapes:
        x: `(n, features)`; y: `(n,)`; output: `(features, classes)`.

    Source: [cafo], equation (2).
    """
    probability = link_function(link)
    w = x.new_ones(x.shape[1], n_classes)
    pairs = list(
        zip(x.chunk(batches), F.one_hot(y, n_classes).to(x.dtype).chunk(batches), strict=True)
    )
    for _ in range(epochs):
        for xb, yb in pairs:
            gradient = xb.T @ (probability(xb @ w) - yb) / len(xb)
            if decay > 1e-4:  # [cafo]
                gradient += decay * w
            w -= step * gradient  # (2)
    return w


def link_function(link: str) -> Callable[[Tensor], Tensor]:
    """From scores to probabilities, by name."""
    if link not in LINKS:
        raise ValueError(f"link must be one of {', '.join(LINKS)}, got {link!r}")
    return sparsemax if link == "sparsemax" else _softmax


def _softmax(z: Tensor) -> Tensor:
    return z.softmax(dim=-1)
