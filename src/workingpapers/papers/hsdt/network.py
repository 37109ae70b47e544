"""HSDT: a U-Net over cubes of bands, under the official names of its weights.

Source: Zeqiang-Lai/HSDT@d6fed85; equations are numbered in method.py. With skips by addition,
L blocks down and L blocks up, those at `sample_idx` halving and doubling height and width:

    (8)   block(x) = SMFFN(GSSA(batch norm(conv(x))))     conv: (1), or 3x3x3 to halve or double
    (9)   e_0 = head(x),  e_i = down_i(e_i-1)
    (10)  u_L = up_L(e_L),  u_i = up_i(u_i+1 + e_i)
    (11)  y   = tail(u_1 + e_0) + x[:, 0]                 the noise is what the network predicts
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.hsdt.method import (
    GSSA,
    SMFFN,
    Branch,
    Flex,
    S3Conv,
    check_flex,
    conv3d,
    cube,
    frames,
    start,
)

Kind = Literal["plain", "down", "up"]
Step = Callable[[Tensor], Tensor]


def resize(
    x: Float[Tensor, "batch c_in bands h w"], conv: nn.Module, kind: Kind
) -> Float[Tensor, "batch c_out bands h_out w_out"]:
    """Convolve 3x3x3, halving height and width ("down"), or after doubling them ("up")."""
    if kind == "up":
        # Trilinear with factor 1 along the bands is bilinear in each band
        large = F.interpolate(frames(x), scale_factor=2, mode="bilinear", align_corners=True)
        x = cube(large, len(x))
    stride = (1, 2, 2) if kind == "down" else (1, 1, 1)
    assert isinstance(conv, nn.Conv3d)
    return conv3d(x, conv.weight, stride=stride, padding=(1, 1, 1))


def u_net(
    x: Float[Tensor, "batch c bands h w"],
    head: Step,
    encoder: Iterable[Step],
    decoder: Iterable[Step],
    tail: Step,
) -> Float[Tensor, "batch 1 bands h w"]:
    """Run blocks down and up with skips by addition, and add the first input channel."""
    h = head(x)  # (9)
    skips = []
    for block in encoder:
        skips.append(h)
        h = block(h)
    for place, block in enumerate(decoder):
        h = block(h + skips.pop() if place else h)  # (10)
    return tail(h + skips.pop()) + x[:, :1]  # (11)


def widths(channels: int, num_half_layer: int, sample_idx: Sequence[int]) -> list[tuple[int, Kind]]:
    """Tell for each block of the encoder how many channels enter it, and its kind."""
    if channels < 1 or num_half_layer < 1:
        raise ValueError(
            f"channels and num_half_layer must be 1 or more, got {channels} and {num_half_layer}"
        )
    if len(set(sample_idx)) < len(sample_idx) or not set(sample_idx) <= set(range(num_half_layer)):
        raise ValueError(
            f"sample_idx must be different numbers from 0 to {num_half_layer - 1}, "
            f"got {list(sample_idx)}"
        )
    found: list[tuple[int, Kind]] = []
    for i in range(num_half_layer):
        found.append((channels, "down" if i in sample_idx else "plain"))
        channels *= 2 if i in sample_idx else 1
    return found


def require_cube(x: Tensor, channels: int, multiple: int) -> None:
    """Raise ValueError unless x is a finite batch of cubes that can be halved often enough."""
    if x.dim() != 5 or x.shape[1] != channels:
        hint = "; give it a channel axis: x.unsqueeze(1)" if x.dim() == 4 else ""
        raise ValueError(
            f"x must be (batch, {channels}, bands, height, width), got shape {tuple(x.shape)}{hint}"
        )
    if x.shape[3] % multiple or x.shape[4] % multiple:
        raise ValueError(
            f"x must have height and width that are multiples of {multiple}, got "
            f"{x.shape[3]} and {x.shape[4]}; `restore` pads and crops"
        )
    if not x.isfinite().all():
        raise ValueError("x must be finite, got NaN or infinity")


class Mixer(nn.Module):
    """GSSA, then SMFFN."""

    def __init__(
        self, channels: int, num_bands: int, flex: Flex, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.attn = GSSA(channels, num_bands, flex, generator)
        self.ffn = SMFFN(channels)

    def forward(self, x: Tensor, branch: Branch | None = None) -> Tensor:
        return self.ffn(self.attn(x, branch))


class Block(nn.Module):
    """One block of the network; `kind` says whether it keeps, halves or doubles the sizes."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kind: Kind,
        num_bands: int,
        flex: Flex = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.conv: nn.Module
        if kind == "plain":
            self.conv = S3Conv(in_channels, out_channels)
        else:
            self.conv = nn.Conv3d(in_channels, out_channels, 3, bias=False)
        self.bn = nn.BatchNorm2d(
            out_channels
        )  # over pictures that are bands: the 3-D one's numbers
        self.attn = Mixer(out_channels, num_bands, flex, generator)

    def forward(
        self, x: Float[Tensor, "batch c_in bands h w"], branch: Branch | None = None
    ) -> Float[Tensor, "batch c_out bands h_out w_out"]:
        if self.kind == "plain":
            h = self.conv(x)
        else:
            h = resize(x, self.conv, self.kind)
        return self.attn(cube(self.bn(frames(h)), len(x)), branch)  # (8)


class Layers(nn.Module):
    """A list under the official name."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class HSDT(nn.Module):
    """Denoise a hyperspectral cube.

    Args:
        in_channels: 1, or 2 for a map of the noise level besides; only the first is denoised.
        channels: width of the first block; doubled where the sizes are halved.
        num_half_layer: how many blocks go down, and as many up.
        sample_idx: which of them halve and double height and width.
        num_bands: how many bands the guided attention has queries for.
        flex: outside training, False needs `num_bands` bands; True goes without the queries and
            takes any number, in training too; "auto" uses them where the number fits [ours].
        generator: draws the branches of attention in training; torch's own unless given.

    Source: equations (8) to (11); HSDT of the official code.

    Shapes:
        x: `(batch, in_channels, bands, h, w)` in about 0 to 1, h and w multiples of `multiple`.
        output: `(batch, 1, bands, h, w)`.

    >>> HSDT(1, 4, 5, [1, 3], num_bands=9)(torch.zeros(1, 1, 9, 8, 12)).shape
    torch.Size([1, 1, 9, 8, 12])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_half_layer: int,
        sample_idx: Sequence[int],
        num_bands: int = 31,
        flex: Flex = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if in_channels < 1:
            raise ValueError(f"in_channels must be 1 or more, got {in_channels}")
        self.in_channels, self.channels = in_channels, channels
        self.num_half_layer, self.sample_idx = num_half_layer, tuple(sample_idx)
        plan = widths(channels, num_half_layer, sample_idx)

        def block(c_in: int, c_out: int, kind: Kind) -> Block:
            return Block(c_in, c_out, kind, num_bands, flex, generator)

        wider = {"plain": 1, "down": 2}
        self.head = block(in_channels, channels, "plain")
        self.encoder = Layers(block(c, c * wider[kind], kind) for c, kind in plan)
        self.decoder = Layers(
            block(c * wider[kind], c, "up" if kind == "down" else "plain")
            for c, kind in reversed(plan)
        )
        self.tail = nn.Conv3d(channels, 1, 3)
        start(self)

    @property
    def multiple(self) -> int:
        """What height and width must be multiples of."""
        return 2 ** len(self.sample_idx)

    @property
    def num_bands(self) -> int:
        """How many bands the guided attention has queries for."""
        return self.head.attn.attn.num_bands

    @property
    def flex(self) -> Flex:
        """Which branch attention takes outside training; setting it sets it everywhere."""
        return self.head.attn.attn.flex

    @flex.setter
    def flex(self, flex: Flex) -> None:
        check_flex(flex)
        for attention in self.attentions():
            attention.flex = flex

    def attentions(self) -> list[GSSA]:
        """Every attention of the network, first to last."""
        return [module for module in self.modules() if isinstance(module, GSSA)]

    def set_bands(self, num_bands: int) -> None:
        """Interpolate every learned query to another number of bands, to be trained on [ours]."""
        for attention in self.attentions():
            attention.set_bands(num_bands)

    def forward(
        self, x: Float[Tensor, "..."], branch: Branch | None = None
    ) -> Float[Tensor, "batch 1 bands h w"]:
        """Return the denoised cube.

        Args:
            x: the noisy cube.
            branch: "self" or "guided" in every block of this call; drawn block by block in
                training and by `flex` else.
        """
        require_cube(x, self.in_channels, self.multiple)

        def steps(blocks: Iterable[nn.Module]) -> list[Step]:
            return [partial(block, branch=branch) for block in blocks]

        (head,) = steps([self.head])
        return u_net(x, head, steps(self.encoder.layers), steps(self.decoder.layers), self._predict)

    def _predict(self, h: Tensor) -> Tensor:
        return conv3d(h, self.tail.weight, self.tail.bias, padding=(1, 1, 1))


def hsdt_s(num_bands: int = 31, in_channels: int = 1, flex: Flex = False) -> HSDT:
    """Build the small HSDT: 8 channels, 5 blocks each way, 134,350 parameters at 31 bands.

    Args:
        num_bands: how many bands it has queries for.
        in_channels: 2 for a map of the noise level beside the cube (the code's `hsdt_pnp`).
        flex: as in `HSDT`.

    Source: hsdt_s of the official code.
    """
    return HSDT(in_channels, 8, 5, (1, 3), num_bands, flex)


def hsdt_m(num_bands: int = 31, in_channels: int = 1, flex: Flex = False) -> HSDT:
    """Build the middle HSDT: 16 channels, 5 blocks each way, 521,158 parameters at 31 bands.

    Args:
        num_bands: how many bands it has queries for.
        in_channels: 2 for a map of the noise level beside the cube (the code's `hsdt_pnp`).
        flex: as in `HSDT`.

    Source: hsdt_m of the official code.
    """
    return HSDT(in_channels, 16, 5, (1, 3), num_bands, flex)


def hsdt_l(num_bands: int = 31, in_channels: int = 1, flex: Flex = False) -> HSDT:
    """Build the large HSDT: 16 channels, 7 blocks each way, 2,094,786 parameters at 31 bands.

    Args:
        num_bands: how many bands it has queries for.
        in_channels: 2 for a map of the noise level beside the cube (the code's `hsdt_pnp`).
        flex: as in `HSDT`.

    Source: hsdt_l of the official code.
    """
    return HSDT(in_channels, 16, 7, (1, 3, 5), num_bands, flex)


def from_official(state: Mapping[str, Any], *, flex: Flex = False) -> HSDT:
    """Build an HSDT from a released checkpoint; all sizes are read off the weights.

    Args:
        state: what `torch.load` returns: the weights, or a dictionary that holds them as "net".
            "module." before every name is seen through.
        flex: not in the weights; as in `HSDT`.

    Source: HSDT of the official code, and the layout of the checkpoints in its release.

    Shapes:
        state: `head.conv.dw_conv.0.weight` `(channels, in_channels, 1, 3, 3)`,
            `head.attn.attn.attn_proj.weight` `(num_bands, channels)`, and so on by block.

    Raises:
        ValueError: weights are missing, left over or of the wrong size.
    """
    weights: Mapping[str, Any] = state.get("net", state)
    weights = {name.removeprefix("module."): weight for name, weight in weights.items()}
    first, queries = "head.conv.dw_conv.0.weight", "head.attn.attn.attn_proj.weight"
    missing = [name for name in (first, queries) if name not in weights]
    if missing:
        raise ValueError(f"state must have the names of HSDT, but lacks {', '.join(missing)}")
    down = {name.split(".")[2]: name for name in weights if name.startswith("encoder.layers.")}
    sampled = sorted(int(i) for i in down if f"encoder.layers.{i}.conv.weight" in weights)
    channels, in_channels = weights[first].shape[:2]
    model = HSDT(in_channels, channels, len(down), sampled, len(weights[queries]), flex)
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ValueError(f"state must hold the weights of one HSDT: {error}") from None
    return model
