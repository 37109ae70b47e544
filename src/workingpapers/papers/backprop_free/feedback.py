"""Direct feedback alignment: the error reaches every block through a fixed random matrix.

Source: [code]; marks and equations (5) to (7) as in cascaded_forward.py.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.local_learning import Optimiser
from workingpapers.papers.backprop_free.backprop import AdamW
from workingpapers.papers.backprop_free.cascaded_forward import Block, CascadedForwardNet


def draw_feedback(
    features: Sequence[int],
    n_classes: int,
    kind: str = "gaussian",
    generator: torch.Generator | None = None,
) -> list[Float[Tensor, "classes _"]]:
    """Draw the fixed matrices that carry the error to the blocks, rows of length 1.

    Args:
        features: F_i of every block.
        n_classes: K.
        kind: "gaussian" or "uniform".
        generator: what draws them.

    Shapes:
        output: one `(n_classes, F_i)` for each block.

    Source: [code].
    """
    if kind not in ("gaussian", "uniform"):
        raise ValueError(f"feedback must be 'gaussian' or 'uniform', got {kind!r}")
    found = []
    for width in features:
        if kind == "gaussian":
            b = torch.randn(n_classes, width, generator=generator)
        else:
            b = 2 * torch.rand(n_classes, width, generator=generator) - 1
        found.append(F.normalize(b, dim=1))
    return found


class DFATrainer:
    """Trains the blocks by direct feedback alignment; a local trainer of the kit.

    Args:
        network: whose blocks learn.
        feedback: B_i of every block but the last (one for the last is allowed and not used).
        optimiser: makes the optimiser for blocks and auxiliary classifier.
    """

    def __init__(
        self, network: CascadedForwardNet, feedback: Sequence[Tensor], optimiser: Optimiser
    ) -> None:
        if network.original:
            raise ValueError("network: DFA needs running statistics, the original keeps none")
        for i, width in enumerate(network.features[:-1]):
            want = (network.n_classes, width)
            if i >= len(feedback) or tuple(feedback[i].shape) != want:
                got = tuple(feedback[i].shape) if i < len(feedback) else "nothing"
                raise ValueError(f"feedback[{i}] must have shape {want}, got {got}")
        self._net, self.feedback = network, list(feedback)
        self.aux = nn.Linear(network.features[-1], network.n_classes)
        nn.init.kaiming_uniform_(self.aux.weight, a=math.sqrt(5))  # [code]
        nn.init.zeros_(self.aux.bias)
        self.network: nn.Module = nn.ModuleDict({"net": network, "aux": self.aux})
        blocks = list(network.blocks.parameters())
        self._optimiser = optimiser([*blocks, *self.aux.parameters()])

    def gradients(self, x: Tensor, y: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Set the gradients of blocks and auxiliary classifier, equations (5) to (7).

        The released code runs every block but the last twice, which moves its running statistics
        twice. Here it runs once, and they are moved again by what they were moved.
        """
        if len(x) < 2:
            raise ValueError(f"x: batch normalisation needs 2 samples or more, got {len(x)}")
        net = self._net
        net.train()
        early = [block for block in list(net.blocks)[:-1] if isinstance(block, Block)]
        before = [_running(block) for block in early]
        self._optimiser.zero_grad()
        outputs = net.outputs(x)
        logits = self.aux(outputs[-1].flatten(1))
        loss = F.cross_entropy(logits, y)
        loss.backward()  # (7)
        with torch.no_grad():
            e = logits.softmax(dim=1) - F.one_hot(y, net.n_classes)  # (5)
        for i, block in enumerate(early):
            outputs[i].backward((e @ self.feedback[i]).view_as(outputs[i]))  # (6)
            _move_again(block, before[i])
        return loss.detach()

    def fit_step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Update blocks and auxiliary classifier from one batch."""
        loss = self.gradients(x, y)
        self._optimiser.step()
        return {"auxiliary": loss.item()}

    @torch.no_grad()
    def scores(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Rate the classes with the auxiliary classifier."""
        self._net.eval()
        return self.aux(self._net.outputs(x)[-1].flatten(1))


def _running(block: Block) -> tuple[Tensor, Tensor]:
    norm = block.norm
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean.clone(), norm.running_var.clone()


def _move_again(block: Block, before: tuple[Tensor, Tensor]) -> None:
    """Move running statistics as a second pass over the same batch would.

    r' = (1-m) r + m s is known, and r'' = (1-m) r' + m s is wanted: r'' = r' + (1-m) (r' - r).
    """
    norm = block.norm
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.momentum is not None and norm.num_batches_tracked is not None
    for now, was in zip((norm.running_mean, norm.running_var), before, strict=True):
        now.add_(now - was, alpha=1 - norm.momentum)
    norm.num_batches_tracked.add_(1)


def dfa_trainer(
    network: CascadedForwardNet,
    lr: float | int,
    *,
    weight_decay: float | int = 0.0,
    feedback: str = "gaussian",
    generator: torch.Generator | None = None,
) -> DFATrainer:
    """Train a network's blocks by direct feedback alignment, before its predictors.

    Args:
        network: whose blocks learn.
        lr: Adam's learning rate.
        weight_decay: decoupled, as in AdamW.
        feedback: "gaussian" or "uniform", what the fixed matrices are drawn from.
        generator: what draws them.

    Shapes:
        None: the trainer takes images and labels as the network does.

    Source: [code].
    """
    matrices = draw_feedback(network.features, network.n_classes, feedback, generator)
    return DFATrainer(network, matrices, AdamW(lr, weight_decay))
