"""How well predicted voxels fit the true ones: the training loss and the paper's measure.

Source: Yang7879/AttSets@cfef26a, main_AttSets.py and tools.py [code]. With v the truth and p the
prediction, the loss is the mean over voxels and sets of

    (5)  l = -v log(p + 1e-8) - (1 - v) log(1 - p + 1e-8)                           [code]

computed from logits, since 1 - p + 1e-8 in float32 is 0 where p rounds to 1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def voxel_loss(
    logits: Float[Tensor, "*shape"], voxels: Float[Tensor, "*shape"], eps: float = 1e-8
) -> Float[Tensor, ""]:
    """Mean cross-entropy of predicted and true occupancy, equation (5).

    Args:
        logits: what the network answers, before the sigmoid.
        voxels: 1 where there is matter, else 0.
        eps: what (5) adds to p and 1 - p, so that no voxel costs more than -log(eps) and a
            hopeless one no longer pulls; 0 is the plain cross-entropy.

    Shapes:
        logits, voxels: alike, any; output: a scalar.

    Source: [code, rec_loss]; computed from logits, which stays finite where the official
    float32 expression gives NaN.
    """
    if eps == 0:
        return F.binary_cross_entropy_with_logits(logits, voxels)
    if eps < 0:
        raise ValueError(f"eps must not be negative, got {eps}")
    floor = torch.full_like(logits, math.log(eps))
    full = torch.logaddexp(F.logsigmoid(logits), floor)  # log(p + eps)
    empty = torch.logaddexp(F.logsigmoid(-logits), floor)  # log(1 - p + eps)
    return -torch.lerp(empty, full, voxels).mean()  # (5)


def voxel_iou(
    probabilities: Float[Tensor, "batch *shape"],
    voxels: Float[Tensor, "batch *shape"],
    threshold: float = 0.25,
) -> Float[Tensor, " batch"]:
    """Intersection over union of each predicted and true object.

    Args:
        probabilities: predicted, in 0..1.
        voxels: true, 0 or 1.
        threshold: what is above it counts as matter.

    Shapes:
        probabilities, voxels: `(batch, *shape)`; output: `(batch,)`, 1 where both are empty.

    Source: [code, metric_IoU].
    """
    here, there = probabilities.flatten(1) > threshold, voxels.flatten(1) > 0.5
    union = (here | there).sum(dim=1)
    inside = (here & there).sum(dim=1)
    return torch.where(union > 0, inside / union.clamp(min=1), 1.0)
