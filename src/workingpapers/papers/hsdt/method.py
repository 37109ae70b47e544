"""Guided spectral attention: what HSDT puts between the convolutions of a 3-D U-Net.

Source: Lai, Yan and Fu, "Hybrid Spectral Denoising Transformer with Guided Attention", ICCV 2023,
arXiv:2303.09040 [paper]; code Zeqiang-Lai/HSDT@d6fed85 (MIT) [code]; what is marked [ours] is in
neither. Nothing is copied.

A cube x has batch, channels C, bands D, height and width. S is leaky ReLU (slope 0.01), * a
convolution without bias, x_d the voxels of band d. All of it [code]:

    (1)  s3(x) = S(P2 * S(P1 * x)) + Q * x     P1, P2: 1 x k x k,  Q: k x 1 x 1
    (2)  t_d  = mean of x_d over height and width
    (3)  A    = softmax_e(t_d . t_e)           self: bands against bands, not scaled
    (4)  A    = softmax_e(t_d . w_e + b_e)     guided: bands against learned queries w_1..w_D
    (5)  y_d  = x_d + W_o sum_e A_de W_v x_e   GSSA
    (6)  [a, g] = W_3 x + b_3
    (7)  y    = W_2 gelu(W_1 x + b_1) + b_2 + a sigmoid(g)    SMFFN, with no residual and no norm

In training every attention draws whether it goes by (3) or by (4); to predict, (4). As (4) has a
query for each band, it fits one number of bands; (3) fits all.

How it is computed [ours]: height and width are convolved with bands as a batch of pictures, and
bands by adding shifted results, since torch's 3-D convolution is slow for few channels. Tensors
keep bands outside channels in memory, behind the usual shape, so that no layer has to move them.
(5) mixes all voxels of a band in one product and merges W_o W_v; (7) merges W_1 and W_3.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Branch = Literal["self", "guided"]
Flex = bool | Literal["auto"]

_DENSE = 2**24  # input values x output channels from which torch's 3-D convolution is the fast one


def frames(x: Float[Tensor, "batch channels bands *space"]) -> Float[Tensor, "n channels *space"]:
    """Lay the bands out as a batch of pictures, without a copy where memory is so already."""
    return x.transpose(1, 2).flatten(0, 1)


def cube(
    pictures: Float[Tensor, "n channels *space"], batch: int
) -> Float[Tensor, "batch channels bands *space"]:
    """Take a batch of pictures for the bands of `batch` cubes; a view."""
    return pictures.unflatten(0, (batch, -1)).transpose(1, 2)


def conv3d(
    x: Float[Tensor, "batch channels bands h w"],
    weight: Float[Tensor, "out channels k_bands k_h k_w"],
    bias: Float[Tensor, " out"] | None = None,
    *,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
) -> Float[Tensor, "batch out bands_out h_out w_out"]:
    """Convolve a cube in 3-D as `torch.nn.functional.conv3d` does, fast for few channels too.

    Source: [ours]; torch falls back to a slow path for the narrow layers that HSDT is made of.

    Shapes:
        x: `(batch, channels, bands, h, w)`; weight: `(out, channels, k, k, k)`, any three sizes.
        output: as that of torch.
    """
    wide = x.numel() * len(weight) >= _DENSE and min(weight.shape[:2]) >= 16
    if wide and weight[0, 0, 0].numel() > 1:  # along the bands alone, shifting is always faster
        y = F.conv3d(x, weight, bias, tuple(stride), tuple(padding))
        return y.transpose(1, 2).contiguous().transpose(1, 2)
    bands, pad = x.transpose(1, 2), padding[0]
    if pad:
        bands = F.pad(bands, (0, 0, 0, 0, 0, 0, pad, pad))
    taps = weight.shape[2]
    last = bands.shape[1] - taps + 1
    out: Tensor | None = None
    for tap in range(taps):
        pictures = bands[:, tap : tap + last : stride[0]].flatten(0, 1)
        # The bias goes in once, with the first tap
        added = F.conv2d(
            pictures,
            weight[:, :, tap],
            None if tap else bias,
            tuple(stride[1:]),
            tuple(padding[1:]),
        )
        out = added if out is None else out.add_(added)
    assert out is not None
    return cube(out, len(x))


class S3Conv(nn.Module):
    """Convolve a cube separably: twice in space, and beside that once along the bands.

    Takes the place of `nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding)`, and
    adds a non-linearity. Full convolutions, not one for each channel: 21 C^2 weights for a kernel
    of 3, where nn.Conv3d has 27 C^2.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: odd, in all three directions.
        stride: in all three directions, or one for each. The official code adds branches of
            unequal size unless it is 1; here both skip the same voxels [ours].
        padding: `kernel_size // 2`, which alone gives both branches the same size.

    Source: equation (1); S3Conv of the official code.

    Shapes:
        x: `(batch, in_channels, bands, h, w)`.
        output: `(batch, out_channels, bands, h, w)`, each size over its stride, rounded up.

    Raises:
        ValueError: `kernel_size` is even, or `padding` not half of it.

    >>> S3Conv(1, 4)(torch.zeros(2, 1, 31, 8, 6)).shape
    torch.Size([2, 4, 31, 8, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int | Sequence[int] = 1,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        if padding not in (None, kernel_size // 2):
            raise ValueError(
                f"padding must be {kernel_size // 2} for kernel_size {kernel_size}, "
                f"so that the branches are of one size, got {padding}"
            )
        self.stride = (stride,) * 3 if isinstance(stride, int) else tuple(stride)
        if len(self.stride) != 3 or min(self.stride) < 1:
            raise ValueError(f"stride must be one number or three, 1 or more, got {stride}")
        self.pad = kernel_size // 2
        flat, upright = (1, kernel_size, kernel_size), (kernel_size, 1, 1)
        self.dw_conv = nn.Sequential(  # named so in the official code, though not depthwise
            nn.Conv3d(in_channels, out_channels, flat, bias=False),
            nn.LeakyReLU(),
            nn.Conv3d(out_channels, out_channels, flat, bias=False),
            nn.LeakyReLU(),
        )
        self.pw_conv = nn.Conv3d(in_channels, out_channels, upright, bias=False)
        start(self)

    def forward(
        self, x: Float[Tensor, "batch c_in bands h w"]
    ) -> Float[Tensor, "batch c_out bands_out h_out w_out"]:
        need(x, self.pw_conv.in_channels)
        first, second = (c.weight.squeeze(2) for c in self.dw_conv if isinstance(c, nn.Conv3d))
        down, *aside = self.stride
        y = frames(x[:, :, ::down])
        y = F.leaky_relu_(F.conv2d(y, first, stride=aside, padding=self.pad))
        y = F.leaky_relu_(F.conv2d(y, second, padding=self.pad))
        along = conv3d(
            x[..., :: aside[0], :: aside[1]],
            self.pw_conv.weight,
            stride=(down, 1, 1),
            padding=(self.pad, 0, 0),
        )
        return along + cube(y, len(x))  # (1)


class GSSA(nn.Module):
    """Let the bands of a cube attend to one another, whole bands at a time.

    The cost is linear in the number of pixels: D x D scores come from pooled bands, and all pixels
    share them.

    Args:
        channels: of the cube.
        num_bands: how many learned queries there are. The guided branch needs as many bands.
        flex: which branch to take outside training. False: guided. True: self, which fits any
            number of bands, in training too. "auto": guided where the bands are `num_bands`, else
            self [ours].
        generator: draws the branch in training; torch's own unless given. The official code draws
            from Python's `random`, which no seed of torch reaches.

    Source: equations (2) to (5); GSSA of the official code.

    Shapes:
        x: `(batch, channels, bands, h, w)`, any trailing sizes; output: the same.

    >>> GSSA(4, 31)(torch.zeros(2, 4, 31, 8, 6)).shape
    torch.Size([2, 4, 31, 8, 6])
    """

    def __init__(
        self,
        channels: int,
        num_bands: int,
        flex: Flex = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_flex(flex)
        if num_bands < 1:
            raise ValueError(f"num_bands must be 1 or more, got {num_bands}")
        self.flex, self.generator = flex, generator
        self.attn_proj = nn.Linear(channels, num_bands)
        self.value_proj = nn.Linear(channels, channels, bias=False)
        self.fc = nn.Linear(channels, channels, bias=False)
        self.register_load_state_dict_pre_hook(_check_queries)
        start(self)

    @property
    def num_bands(self) -> int:
        """How many learned queries there are."""
        return self.attn_proj.out_features

    def set_bands(self, num_bands: int) -> None:
        """Replace the learned queries by as many as asked for, interpolated along the bands.

        Source: [ours]; the queries fit the new bands as far as both sensors see the same range in
        equal steps, and are meant to be trained on.
        """
        if num_bands < 1:
            raise ValueError(f"num_bands must be 1 or more, got {num_bands}")
        with torch.no_grad():
            old = torch.cat([self.attn_proj.weight, self.attn_proj.bias[:, None]], dim=1)
            new = F.interpolate(old.t()[None], num_bands, mode="linear", align_corners=True)[0].t()
            self.attn_proj = nn.Linear(
                old.shape[1] - 1, num_bands, device=old.device, dtype=old.dtype
            )
            self.attn_proj.weight.copy_(new[:, :-1])
            self.attn_proj.bias.copy_(new[:, -1])

    def attention(
        self, x: Float[Tensor, "batch channels bands *space"], branch: Branch | None = None
    ) -> Float[Tensor, "batch bands bands"]:
        """Tell how much each band (rows) takes from which (columns); rows sum to 1."""
        need(x, self.attn_proj.in_features)
        pooled = x.flatten(3).mean(dim=3).mT  # (2); batch, bands, channels
        if self._branch(x.shape[2], branch) == "self":
            return (pooled @ pooled.mT).softmax(dim=-1)  # (3)
        return self.attn_proj(pooled).softmax(dim=-1)  # (4)

    def forward(
        self, x: Float[Tensor, "batch channels bands *space"], branch: Branch | None = None
    ) -> Float[Tensor, "batch channels bands *space"]:
        """Return x and what its bands take from one another.

        Args:
            x: the cube.
            branch: "self" or "guided" for this call; drawn in training and by `flex` else.
        """
        attention = self.attention(x, branch)
        bands = x.transpose(1, 2)  # batch, bands, channels, space
        mixed = (attention @ bands.flatten(2)).unflatten(2, (x.shape[1], -1))
        # (5): nothing stands between W_v and W_o, nor between them and the mixing
        taken = (self.fc.weight @ self.value_proj.weight) @ mixed
        return (bands + taken.view(bands.shape)).transpose(1, 2)

    def _branch(self, bands: int, branch: Branch | None) -> Branch:
        fits = bands == self.num_bands
        if branch is None:
            if self.training and fits:
                return "self" if torch.rand((), generator=self.generator) > 0.5 else "guided"
            branch = "self" if self.flex is True or (self.flex and not fits) else "guided"
        elif branch not in ("self", "guided"):
            raise ValueError(f'branch must be "self", "guided" or None, got {branch!r}')
        if branch == "guided" and not fits:
            raise ValueError(
                f"x must have num_bands = {self.num_bands} bands for the guided branch, got "
                f'{bands}; flex=True or flex="auto" takes any number, set_bands({bands}) adapts '
                "the queries"
            )
        return branch


class SMFFN(nn.Module):
    """Transform every voxel by itself: an MLP, plus half of a linear map gated by its other half.

    There is no residual around it; the network's blocks have none either.

    Args:
        dim: channels of the cube.
        hidden: width of the MLP; twice `dim` unless given.
        bias: whether the maps have biases.

    Source: equations (6) and (7); SMFFN of the official code.

    Shapes:
        x: `(batch, dim, bands, h, w)`, any number of trailing sizes; output: the same.

    >>> SMFFN(4)(torch.zeros(2, 4, 31, 8, 6)).shape
    torch.Size([2, 4, 31, 8, 6])
    """

    def __init__(self, dim: int, hidden: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.hidden = 2 * dim if hidden is None else hidden
        self.w_1 = nn.Linear(dim, self.hidden, bias=bias)
        self.w_2 = nn.Linear(self.hidden, dim, bias=bias)
        self.w_3 = nn.Linear(dim, 2 * dim, bias=bias)
        start(self)

    def forward(
        self, x: Float[Tensor, "batch channels bands *space"]
    ) -> Float[Tensor, "batch channels bands *space"]:
        need(x, self.w_1.in_features)
        voxels = frames(x)
        weight = torch.cat([self.w_1.weight, self.w_3.weight]).unsqueeze(2)
        bias = None if self.w_1.bias is None else torch.cat([self.w_1.bias, self.w_3.bias])
        both = F.conv1d(voxels.flatten(2), weight, bias)
        hidden, modulated = both.split([self.hidden, both.shape[1] - self.hidden], dim=1)
        y = F.conv1d(F.gelu(hidden), self.w_2.weight.unsqueeze(2), self.w_2.bias)
        y = y + F.glu(modulated, dim=1)  # (6), (7): glu is a sigmoid(g)
        return cube(y.view(voxels.shape), len(x))


def start(module: nn.Module) -> None:
    """Give convolutions and linear maps the weights that the authors train from.

    Source: [code], README: Xavier's normal for convolutions; linear maps near 0, so that GSSA
    begins as the identity.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.xavier_normal_(part.weight)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=1e-3)
        if isinstance(part, nn.Conv3d | nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def check_flex(flex: object) -> None:
    """Raise ValueError unless `flex` is True, False or "auto"."""
    if flex is not True and flex is not False and flex != "auto":
        raise ValueError(f'flex must be True, False or "auto", got {flex!r}')


def need(x: Tensor, channels: int) -> None:
    """Raise ValueError unless x is a batch of cubes with that many channels."""
    if x.dim() < 3 or x.shape[1] != channels:
        raise ValueError(
            f"x must be (batch, {channels} channels, bands, ...), got shape {tuple(x.shape)}"
        )


def _check_queries(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Explain what torch would only call a size mismatch."""
    assert isinstance(module, GSSA)
    weight = state.get(prefix + "attn_proj.weight")
    if weight is not None and len(weight) != module.num_bands:
        raise ValueError(
            f"{prefix}attn_proj holds queries for {len(weight)} bands, but num_bands is "
            f"{module.num_bands}: build the model with num_bands={len(weight)}, then set_bands("
            f"{module.num_bands}), or use flex, which ignores attn_proj"
        )
