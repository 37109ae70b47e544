"""Cascaded-Forward: a stack of convolutional blocks, each with a classifier on what it gives.

Source: [code] for the comparison's version, [cafo] for the original; marks as in method.py.
Block i has C_i channels and gives F_i = C_i h_i w_i features; K classes:

    (1)  a_i = BN(pool(act(conv3x3(a_{i-1}))))     pool halves both sides                 [code]
    (2)  G_i = flat(a_i) P_i^T + p_i               predictor, trained alone on CE         [code]
    (3)  scores = sum_i G_i ("average", "last")                                           [code]
    (4)  scores = sum_i link(flat(a_i) W_i)        probabilities, W_i without bias        [cafo]

The blocks are random and stay so, or direct feedback alignment (DFA) trains them beforehand, with
an auxiliary classifier A on the last block and fixed random B_i (K, F_i), rows of length 1:

    (5)  e = softmax(A a_L) - onehot(y)            not divided by the batch               [code]
    (6)  blocks 1..L-1 follow the vector e B_i as the gradient of their output            [code]
    (7)  block L and A follow mean cross entropy, L's input cut off                       [code]

The sums in (6) beside the means in (7) are a factor B, which only Adam hides.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.local_learning import (
    Optimiser,
    in_pieces,
)
from workingpapers.papers.backprop_free.backprop import AdamW, twin
from workingpapers.papers.backprop_free.method import ACTIVATIONS
from workingpapers.papers.backprop_free.official import check_shape, unwrapped
from workingpapers.papers.backprop_free.predictors import (
    least_squares,
    link_function,
    sparsemax_loss,
)

READOUTS = ("sum", "average", "last")
HEADS = ("ce", "mse", "sparsemax")


class Block(nn.Module):
    """Convolve, activate, halve and normalise: equation (1).

    Args:
        before: channels that come in.
        after: channels that go out.
        act: "relu" or "tanh".
        original: the original's version: the convolution has a bias, and normalisation always
            uses the statistics of the batch it is given.

    Shapes:
        x: `(batch, before, height, width)`; output: `(batch, after, height // 2, width // 2)`.

    Source: [code]; `original` from [cafo].
    """

    def __init__(self, before: int, after: int, act: str = "relu", original: bool = False) -> None:
        super().__init__()
        self.original = original
        self.conv = nn.Conv2d(before, after, 3, padding=1, bias=original)
        self.act = ACTIVATIONS[act]()
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.BatchNorm2d(after, eps=1e-4 if original else 1e-5)
        if not original:
            nn.init.kaiming_uniform_(self.conv.weight, nonlinearity="relu")  # [code]
            assert self.norm.running_var is not None and self.norm.num_batches_tracked is not None
            self.norm.running_var.fill_(0.9)  # the released code sends zeros through once
            self.norm.num_batches_tracked.fill_(1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        x = self.pool(self.act(self.conv(x)))  # (1)
        if not self.original:
            return self.norm(x)
        own = self.norm
        return F.batch_norm(x, None, None, own.weight, own.bias, training=True, eps=own.eps)


class CascadedForwardNet(nn.Module):
    """A stack of convolutional blocks with a predictor after each; predictions are added.

    Args:
        in_channels: of the images.
        image_size: height and width, or one number for both.
        channels: of each block.
        n_classes: K.
        act: "relu" or "tanh".
        readout: "sum", "average" or "last", equation (3).
        link: None adds scores; "softmax" or "sparsemax" adds probabilities, equation (4).
        original: the original's blocks; see `Block`.

    Shapes:
        x: `(batch, in_channels, height, width)`; output: `(batch, n_classes)`.

    Source: [code], equations (1) to (4).

    >>> net = CascadedForwardNet(2, 16, channels=(4, 6), n_classes=5)
    >>> net(torch.zeros(3, 2, 16, 16)).shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | Sequence[int] = 28,
        channels: Sequence[int] = (32, 128, 512),
        n_classes: int = 10,
        act: str = "relu",
        readout: str = "sum",
        link: str | None = None,
        original: bool = False,
    ) -> None:
        super().__init__()
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if in_channels < 1 or not channels or min(channels) < 1 or n_classes < 2:
            raise ValueError(
                "in_channels and channels must be positive and n_classes 2 or more, got "
                f"{in_channels}, {tuple(channels)} and {n_classes}"
            )
        if len(size) != 2 or min(size) < 2 ** len(channels):
            raise ValueError(
                f"image_size: {len(channels)} blocks halve both sides as often, so each needs "
                f"{2 ** len(channels)} pixels or more, got {size}"
            )
        if act not in ACTIVATIONS:
            raise ValueError(f"act must be one of {', '.join(ACTIVATIONS)}, got {act!r}")
        if readout not in READOUTS:
            raise ValueError(f"readout must be one of {', '.join(READOUTS)}, got {readout!r}")
        if link is not None:
            link_function(link)
        self.in_channels, self.size, self.channels = in_channels, size, tuple(channels)
        self.n_classes, self.act, self.original = n_classes, act, original
        self.readout, self.link = readout, link
        widths = (in_channels, *channels)
        self.blocks = nn.ModuleList(
            Block(before, after, act, original) for before, after in itertools.pairwise(widths)
        )
        self.features = [  # F_i
            c * (size[0] >> i) * (size[1] >> i) for i, c in enumerate(channels, start=1)
        ]
        self.predictors = nn.ModuleList(nn.Linear(f, n_classes) for f in self.features)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this network anew."""
        return {
            "in_channels": self.in_channels,
            "image_size": list(self.size),
            "channels": list(self.channels),
            "n_classes": self.n_classes,
            "act": self.act,
            "readout": self.readout,
            "link": self.link,
            "original": self.original,
        }

    def outputs(self, x: Tensor) -> list[Float[Tensor, "batch _ _ _"]]:
        """What every block gives; no gradient passes from one to the next."""
        if x.ndim != 4 or x.shape[1:] != (self.in_channels, *self.size):
            raise ValueError(
                f"x must be (batch, {self.in_channels}, {self.size[0]}, {self.size[1]}), got "
                f"shape {tuple(x.shape)}"
            )
        found = []
        for block in self.blocks:
            x = block(x.detach())  # (1)
            found.append(x)
        return found

    def logits(self, x: Tensor) -> list[Float[Tensor, "batch classes"]]:
        """What every predictor says, equation (2)."""
        pairs = zip(self.predictors, self.outputs(x), strict=True)
        return [predictor(a.flatten(1)) for predictor, a in pairs]  # (2)

    def read(self, logits: Sequence[Tensor]) -> Float[Tensor, "batch classes"]:
        """Join what the predictors say, equations (3) and (4)."""
        if self.link is not None:
            logits = [link_function(self.link)(z) for z in logits]
        if self.readout == "last":
            return logits[-1]
        total = torch.stack(list(logits)).sum(dim=0)
        return total / len(logits) if self.readout == "average" else total

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        return self.read(self.logits(x))

    def trainer(
        self, lr: float | int, *, weight_decay: float | int = 0.0, head: str = "ce"
    ) -> "CascadeTrainer":
        """Train the predictors with `workingpapers.kit.local_learning.train`, a phase for each.

        Args:
            lr: Adam's learning rate.
            weight_decay: decoupled, as in AdamW.
            head: "ce" or "sparsemax", the loss.
        """
        return CascadeTrainer(self, AdamW(lr, weight_decay), head)

    def as_backprop(self) -> nn.Sequential:
        """The twin for backpropagation: copies of the blocks, the last predictor as its readout."""
        readout = self.predictors[-1]
        assert isinstance(readout, nn.Linear)
        return twin(list(self.blocks), readout)

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Any],
        image_size: int | Sequence[int],
        predictors: Sequence[Mapping[str, Any] | Tensor] = (),
        **config: Any,
    ) -> "CascadedForwardNet":
        """Build from either code's layout; channels are read from the tensors.

        Args:
            state: the comparison's `blocks.{i}.conv.weight`, `blocks.{i}.bn.*`, or the original's
                `layers.{i}.conv_module.{0,3}.*`; perhaps inside `{"model": ...}` or the like.
            image_size: what the network was made for.
            predictors: one for each block: the comparison's `fc.weight`, `fc.bias`, or the
                original's tensor W, (features, classes).
            config: `act`, `readout`, `link`; `n_classes` where no predictors are given.

        Shapes:
            None: tensors are copied as they are; W is turned.
        """
        state = unwrapped(state)
        original = "layers.0.conv_module.0.weight" in state
        stem = "layers.{}.conv_module.0" if original else "blocks.{}.conv"
        depth = sum(f"{stem.format(i)}.weight" in state for i in range(len(state)))
        if not depth:
            raise ValueError(
                "state must hold blocks.0.conv.weight or layers.0.conv_module.0.weight, got "
                f"{', '.join(sorted(state)[:6]) or 'nothing'}"
            )
        if predictors and len(predictors) != depth:
            raise ValueError(f"predictors: expected {depth}, one a block, got {len(predictors)}")
        convs = [state[f"{stem.format(i)}.weight"] for i in range(depth)]
        read = [_predictor(predictor) for predictor in predictors]
        if read:
            config["n_classes"] = read[0][0].shape[0]
        if original:
            config = {"link": "softmax", **config}
        channels = [conv.shape[0] for conv in convs]
        net = cls(convs[0].shape[1], image_size, channels, original=original, **config)
        own = net.to_official()
        counters = {name for name in own if name.endswith("num_batches_tracked")}
        if not own.keys() - counters <= state.keys() <= own.keys():
            raise ValueError(f"state must hold {sorted(own)}, got {sorted(state)}")
        with torch.no_grad():
            for name, tensor in own.items():
                if name in state:
                    check_shape(name, state[name], tensor)
                    tensor.copy_(state[name])
            for i, (weight, bias) in enumerate(read):
                linear = net.predictors[i]
                assert isinstance(linear, nn.Linear)
                check_shape(f"predictors[{i}]", weight, linear.weight)
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
        return net

    def to_official(self) -> dict[str, Tensor]:
        """The blocks' weights under the official names; they share memory with this network."""
        names = ("layers.{}.conv_module.0", "layers.{}.conv_module.3")
        conv, norm = names if self.original else ("blocks.{}.conv", "blocks.{}.bn")
        found: dict[str, Tensor] = {}
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            own = block.conv.named_parameters()
            found |= {f"{conv.format(i)}.{key}": p for key, p in own}
            own = block.norm.named_parameters()
            found |= {f"{norm.format(i)}.{key}": p for key, p in own}
            found |= {f"{norm.format(i)}.{key}": b for key, b in block.norm.named_buffers()}
        return found


def _predictor(given: Mapping[str, Any] | Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(given, Tensor):
        return given.T, given.new_zeros(given.shape[1])
    state = unwrapped(given)
    if set(state) != {"fc.weight", "fc.bias"}:
        raise ValueError(f"predictors must hold fc.weight and fc.bias, got {sorted(state)}")
    return state["fc.weight"], state["fc.bias"]


class CascadeTrainer:
    """Trains the predictors one after another on frozen blocks; a phased trainer of the kit.

    Every phase carries the data through one more block, once, and then works on its features.
    """

    def __init__(self, network: CascadedForwardNet, optimiser: Optimiser, head: str = "ce") -> None:
        if head not in ("ce", "sparsemax"):
            raise ValueError(f"head must be 'ce' or 'sparsemax' to be trained, got {head!r}")
        self.network: nn.Module = network
        self.phases = len(network.blocks)
        self._net, self._make, self._head = network, optimiser, head
        self.begin(0)

    def begin(self, phase: int) -> None:
        """Get ready to train one predictor, with a fresh optimiser."""
        self._phase = phase
        self._optimiser = self._make(list(self._net.predictors[phase].parameters()))
        self._net.eval()

    @torch.no_grad()
    def advance(self, x: Tensor) -> Tensor:
        """Carry data through this phase's block."""
        return in_pieces(self._net.blocks[self._phase], x, len(x) if self._net.original else 512)

    def fit_step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Update the predictor from one batch of its block's features."""
        self._optimiser.zero_grad()
        z = self._net.predictors[self._phase](x.flatten(1))
        loss = F.cross_entropy(z, y) if self._head == "ce" else sparsemax_loss(z, y)
        loss.backward()
        self._optimiser.step()
        return {f"predictor {self._phase}": loss.item()}

    @torch.no_grad()
    def phase_scores(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Rate the classes with the predictor in training."""
        return self._net.predictors[self._phase](x.flatten(1))

    @torch.no_grad()
    def scores(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Rate the classes with all predictors."""
        self._net.eval()
        if self._net.original:
            return self._net(x)
        return in_pieces(self._net, x, 512)

    @torch.no_grad()
    def solve(self, x: Tensor, y: Int[Tensor, " n"], ridge: float | int = 0.0) -> None:
        """Set all predictors in closed form, least squares on one-hot labels."""
        self._net.eval()
        for i, linear in enumerate(self._net.predictors):
            self._phase = i
            assert isinstance(linear, nn.Linear)
            x = self.advance(x)
            batches = zip(x.flatten(1).split(2048), y.split(2048), strict=True)
            linear.weight.copy_(least_squares(batches, self._net.n_classes, ridge).T)
            linear.bias.zero_()
