"""A convolutional autoencoder whose mirror runs from the output image back to the input image.

Source: [code], the STL-10 autoencoder. With H_l the height of level l, levels 0 (the input) to M
(the output), t the image that the feedback network is fed (the input itself, or a transform of it):

    (1)  a_0 = x,  a_l = F_l(sg(a_{l-1}));   c_M = t,  c_{l-1} = B_l(sg(c_l))
    (2)  loss_l = H_l (s_C MSE(a_l, c_l) + s_D MSE(nrm(a_l), nrm(c_l)))     0 < l < M
    (3)  loss_l = H_l s_C MSE(a_l, c_l)                                     l = 0 and l = M

nrm subtracts from every map its mean and divides it by its length + 1e-8.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.counter_current.dual import DualNetwork
from workingpapers.papers.counter_current.method import activation
from workingpapers.papers.counter_current.official import place, unwrapped


def image_loss(
    a: Float[Tensor, "batch channels height width"],
    c: Float[Tensor, "batch channels height width"],
    scale: float = 1.0,
    shape_scale: float = 0.0,
) -> Float[Tensor, ""]:
    """Measure how far two stacks of maps differ, in value and, weighted apart, in pattern.

    Shapes:
        a and c: `(batch, channels, height, width)`; output: a number.

    Source: [code], the autoencoder's loss; equation (2), and (3) where `shape_scale` is 0.
    """
    loss = scale * F.mse_loss(a, c)
    if shape_scale:
        loss = loss + shape_scale * F.mse_loss(_pattern(a), _pattern(c))
    return a.shape[2] * loss


def _pattern(maps: Tensor) -> Tensor:
    centred = maps - maps.mean(dim=(2, 3), keepdim=True)
    return centred / (centred.flatten(2).norm(dim=2)[..., None, None] + 1e-8)


class CounterCurrentAutoencoder(DualNetwork):
    """Compresses images and restores them, trained level by level from both ends.

    Encoder blocks are conv 3x3 with stride 2, batch norm, activation; decoder blocks double the
    size, then the same with stride 1, the last one a convolution alone. The feedback network has
    the same form, from the output image to the input image.

    Args:
        in_channels: channels of the image.
        channels: of the encoder's blocks; the paper's are (128, 256, 1024, 2048).
        act: as for `CounterCurrentMLP`; "relu" in the paper's code.
        scale: s_C.
        shape_scale: s_D.
        norm: batch norms after all convolutions but the last of either network.
        feedback_act: the feedback network's activation where it differs.
        input_level: keep level 0, which trains the feedback network's last convolution.
        lean: hold one level's graph at a time; the feedback network then runs twice a step.

    Shapes:
        x: `(batch, in_channels, height, width)`, sides divisible by 2 once for each block;
        output: the same.

    Source: [code], the STL-10 autoencoder: orthogonal kernels, those of the decoder's forward and
    the encoder's feedback layers times 0.001, the last of each zero; forward biases zero.

    >>> net = CounterCurrentAutoencoder(1, (4, 8))
    >>> x = torch.randn(2, 1, 8, 8)
    >>> net.encode(x).shape, net(x).shape
    (torch.Size([2, 8, 2, 2]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        act: str = "relu",
        *,
        scale: float | int = 1.0,
        shape_scale: float | int = 1.0,
        norm: bool = True,
        feedback_act: str | None = None,
        input_level: bool = True,
        lean: bool = True,
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError("channels must hold one number or more, got none")
        dims = [in_channels, *channels]
        back_act = act if feedback_act is None else feedback_act
        encoder = list(itertools.pairwise(dims))
        decoder = list(itertools.pairwise(reversed(dims)))
        count = len(encoder)
        up = [_block(a, b, act, norm, shrink=True) for a, b in encoder]
        up += [
            _block(a, b, act if i < count - 1 else None, norm, shrink=False)
            for i, (a, b) in enumerate(decoder)
        ]
        down = [
            _block(b, a, back_act if i else None, norm, shrink=False)
            for i, (a, b) in enumerate(encoder)
        ]
        down += [_block(b, a, back_act, norm, shrink=True) for a, b in decoder]
        self.up, self.down = nn.ModuleList(up), nn.ModuleList(down)
        self.scale, self.shape_scale = float(scale), float(shape_scale)
        self.input_level, self.lean = input_level, lean
        self.config = {
            "in_channels": in_channels, "channels": list(channels), "act": act,
            "scale": self.scale, "shape_scale": self.shape_scale, "norm": norm,
            "feedback_act": feedback_act, "input_level": input_level, "lean": lean,
        }  # fmt: skip
        self._start(count)

    @torch.no_grad()
    def _start(self, count: int) -> None:
        for half, small in ((self.up, range(count, 2 * count)), (self.down, range(count))):
            end = 2 * count - 1 if half is self.up else 0
            for i, stage in enumerate(half):
                layer = stage.get_submodule("layer")
                assert isinstance(layer, nn.Conv2d) and layer.bias is not None
                nn.init.orthogonal_(layer.weight)
                if half is self.up:
                    layer.bias.zero_()
                if i in small:
                    layer.weight *= 0.0 if i == end else 1e-3

    @property
    def depth(self) -> int:
        """How many blocks the encoder has."""
        return len(self.up) // 2

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return super().forward(self._image(x))

    def encode(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch code h w"]:
        """Compress images."""
        x = self._image(x)
        for stage in self.up[: self.depth]:
            x = stage(x)
        return x

    def decode(
        self, code: Float[Tensor, "batch code h w"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Restore images from their codes."""
        for stage in self.up[self.depth :]:
            code = stage(code)
        return code

    def feedback(self, target: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
        """Run the feedback network from an output image: c_0 to c_M, the last the target itself."""
        return self._signals(self._image(target))

    def activations(self, x: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
        """Run (1): a_0 to a_M, each with a graph that ends at the level before it."""
        return super().activations(self._image(x))

    def local_losses(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """Compute the losses (2) and (3) of levels 0 to M; `y` is the target, else `x`."""
        return super().local_losses(x, x if y is None else y)

    def accumulate(
        self, x: Tensor, y: Tensor | None = None, weight: float = 1.0
    ) -> dict[str, float]:
        """Add `weight` times the gradient of every local loss to its own weights.

        `y` is the target image, `x` itself when left out.
        """
        x, y = self._image(x), self._image(x if y is None else y)
        if x.shape != y.shape:
            raise ValueError(
                f"y: expected targets of x's shape {tuple(x.shape)}, got {tuple(y.shape)}"
            )
        values = len(x) * x.shape[2] * x.shape[3] // 4**self.depth
        if self.training and self.config["norm"] and values < 2:
            raise ValueError(
                "x: batch norm needs two values a channel or more in training, but the code of "
                f"shape {tuple(x.shape)} has one"
            )
        return super().accumulate(x, y, weight)

    def _image(self, x: Tensor) -> Tensor:
        channels, unit = self.config["in_channels"], 2**self.depth
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % unit or x.shape[3] % unit:
            raise ValueError(
                f"x: expected (batch, {channels}, height, width) with sides divisible by {unit}, "
                f"got {tuple(x.shape)}"
            )
        return x

    def _source(self, y: Tensor) -> Tensor:
        return y

    def _goal(self, y: Tensor, output: Callable[[], Tensor]) -> Any:
        return None

    def _level_loss(self, level: int, a: Tensor, c: Tensor, goal: Any) -> Tensor:
        inner = 0 < level < len(self.up)
        return image_loss(a, c, self.scale, self.shape_scale if inner else 0.0)  # (2), (3)

    @classmethod
    def from_official(
        cls, state: Mapping[str, Any], act: str = "relu", **settings: Any
    ) -> "CounterCurrentAutoencoder":
        """Build the network from a state dict of the released code; channels are read off it.

        Args:
            state: `enc1..` and `dec..1`, also inside `{"model": ...}`.
            act: the activation that it was trained with.
            settings: other arguments of the constructor.
        """
        state = unwrapped(state)
        if "enc1.forward_layer.weight" not in state:
            raise ValueError(
                f"state: expected 'enc1.forward_layer.weight', got {sorted(state)[:6]}"
            )
        count = 0
        while f"enc{count + 1}.forward_layer.weight" in state:
            count += 1
        kernels = [state[f"enc{i}.forward_layer.weight"] for i in range(1, count + 1)]
        settings = {"norm": any("_bn" in name for name in state), **settings}
        net = cls(kernels[0].shape[1], [k.shape[0] for k in kernels], act, **settings)
        return place(net, state, official_stages(count))


def official_stages(count: int) -> list[str]:
    """The official names of the stages from the input up: enc1, ..., then dec..., dec1."""
    return [f"enc{i}" for i in range(1, count + 1)] + [f"dec{i}" for i in range(count, 0, -1)]


def _block(below: int, above: int, act: str | None, norm: bool, *, shrink: bool) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if not shrink:
        parts["grow"] = nn.Upsample(scale_factor=2)
    parts["layer"] = nn.Conv2d(below, above, 3, 2 if shrink else 1, 1)
    if act is not None:
        if norm:
            parts["norm"] = nn.BatchNorm2d(above)
        parts["act"] = activation(act)
    return nn.Sequential(parts)
