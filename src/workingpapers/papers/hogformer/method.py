"""HOGformer's block: attention that is sorted and prompted by histograms of oriented gradients.

Source: Wu, Yang, Wang and Jin, "Beyond Degradation Conditions: All-in-One Image Restoration via
HOG Transformers", arXiv 2504.09377 v1 (2025), which v3 calls "Gradient as Conditions: Rethinking
HOG for All-in-one Image Restoration" (AAAI 2026); code Fire-friend/HOGformer@be6fd81 (MIT). All
below is [code] unless marked: the paper's equations could not be read, the numbers are ours.

x is `(B, C, H, W)`, u its first C/2 channels, Sx and Sy Sobel filters with a border of zeros,
P = 8 the side of a cell, n = 9 the number of bins, h the number of heads.

Dynamic range convolution, in cells of P x P pixels (zeros fill up the last ones):
    (1)  m = sqrt((Sx u)² + (Sy u)² + 1e-6),   b = floor(n (atan2(Sy u, Sx u) + π) / 2π) mod n
    (2)  key = Σ_c m (b + 1)                          one number a pixel; idx sorts it in each cell
    (3)  H_i = mean over c and pixels of m [b = i],   H / (Σ_i H_i + 1e-8)        for each cell
    (4)  u' = u sorted by idx in each cell
    (5)  q1, k1, q2, k2, v = depthwise 3x3 of 1x1 of [u' + bilinear(W_bin H), rest of x]
Histogram attention:
    (6)  s = Σ_c m_c (atan2 + π) / 2π of v            sorts all pixels, all channels in one order
    (7)  S = τ q̂ k̂ᵀ,   A = exp(S) / (Σ exp(S) + 1)    over h segments of the order as channels
    (8)  o = A(q1, k1) v over contiguous segments  *  A(q2, k2) v over strided ones
    (9)  y = 1x1 of o with (6) undone; then (2) is undone in the first half of the channels
Feed-forward, at twice the resolution:
    (10) z1, z2 = halves of PixelShuffle(1x1 of x),   z = mish(dw3x3 dilated z2) * dw5x5 z1
    (11) z = z + σ (z - gelu(1x1 z))                  one map for all channels
    (12) y = 1x1 of PixelUnshuffle(z)

How it is computed here [ours], with the same result: the key is summed over channels before cells
are cut and sorted once for all channels; the histogram is one scatter over channels, pooled; with
one head (6) has no effect and is left out; (6) is undone once, after the product in (8); rows of q
and k are normalised after their product.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

CELL, BINS = 8, 9
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def normalise(
    x: Float[Tensor, "batch dim height width"], kind: str = "WithBias"
) -> Float[Tensor, "batch dim height width"]:
    """Divide each pixel's channels by their deviation; "WithBias" takes their mean away first.

    Source: the official layer norms, whose weights are commented out [code].

    Shapes:
        x, output: `(batch, dim, height, width)`.
    """
    variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
    return (x - mean if kind == "WithBias" else x) * torch.rsqrt(variance + 1e-5)


def gradients(
    x: Float[Tensor, "batch dim height width"], kernel: Float[Tensor, "2 1 3 3"]
) -> tuple[Float[Tensor, "batch dim height width"], Float[Tensor, "batch dim height width"]]:
    """Filter each channel with two kernels: `(gx, gy)`, a border of zeros around x.

    Source: equation (1), both filters in one convolution [ours].

    Shapes:
        x and both outputs: `(batch, dim, height, width)`; kernel: `(2, 1, 3, 3)`.
    """
    dim = x.shape[1]
    both = F.conv2d(x, kernel.repeat(dim, 1, 1, 1), padding=1, groups=dim)
    return both[:, ::2], both[:, 1::2]


def sobel() -> Float[Tensor, "2 1 3 3"]:
    """Give the Sobel filters that answer horizontal and vertical change, in this order.

    Source: equation (1).

    Shapes:
        output: `(2, 1, 3, 3)`.
    """
    kernel = torch.tensor(SOBEL)
    return torch.stack([kernel, kernel.T]).unsqueeze(1)


def to_cells(
    x: Float[Tensor, "batch dim height width"],
) -> Float[Tensor, "batch dim cells 64"]:
    """Cut into 8x8 cells, row by row; zeros fill up those at the right and bottom.

    Source: before equation (2).

    Shapes:
        x: `(batch, dim, height, width)`.
        output: `(batch, dim, ceil(height / 8) * ceil(width / 8), 64)`.
    """
    height, width = x.shape[-2:]
    if height % CELL or width % CELL:
        x = F.pad(x, (0, -width % CELL, 0, -height % CELL))
    rows, columns = x.shape[-2] // CELL, x.shape[-1] // CELL
    cut = x.unflatten(-1, (columns, CELL)).unflatten(-3, (rows, CELL))  # ..., rows, 8, columns, 8
    return cut.transpose(-3, -2).reshape(*x.shape[:2], rows * columns, CELL * CELL)


def from_cells(
    x: Float[Tensor, "batch dim cells 64"], height: int, width: int
) -> Float[Tensor, "batch dim height width"]:
    """Put cells together again and crop: undoes `to_cells`.

    Source: after equation (4).

    Shapes:
        x: `(batch, dim, cells, 64)`; output: `(batch, dim, height, width)`.
    """
    rows, columns = -(-height // CELL), -(-width // CELL)
    whole = x.unflatten(-1, (CELL, CELL)).unflatten(-3, (rows, columns)).transpose(-3, -2)
    whole = whole.reshape(*x.shape[:2], rows * CELL, columns * CELL)
    return whole[..., :height, :width]


def cell_histograms(
    u: Float[Tensor, "batch dim height width"], kernel: Float[Tensor, "2 1 3 3"]
) -> tuple[Float[Tensor, "batch cells 9"], Int64[Tensor, "batch cells 64"]]:
    """Describe each 8x8 cell by nine bins of orientation, and rank its pixels by gradient.

    The histogram sums to one over the bins, and to nearly one where the gradients are tiny.

    Source: equations (1) to (3).

    Shapes:
        u: `(batch, dim, height, width)`; kernel: `(2, 1, 3, 3)`.
        output: histograms `(batch, cells, 9)`; for each cell the places of its pixels from weak to
        strong, `(batch, cells, 64)`.
    """
    gx, gy = gradients(u, kernel)
    strength = (gx.square() + gy.square() + 1e-6).sqrt()  # (1)
    with torch.no_grad():
        turn = (torch.atan2(gy, gx) + torch.pi) / (2 * torch.pi)
        bins = (turn * BINS).floor() % BINS
        key = (strength * (bins + 1)).sum(dim=1, keepdim=True)  # (2)
        idx = to_cells(key).squeeze(1).argsort(dim=-1, stable=True)
    per_pixel = u.new_zeros(len(u), BINS, *u.shape[-2:]).scatter_add(1, bins.long(), strength)
    histogram = to_cells(per_pixel).sum(dim=-1).transpose(1, 2) / (u.shape[1] * CELL * CELL)  # (3)
    return histogram / (histogram.sum(dim=-1, keepdim=True) + 1e-8), idx


def pixel_order(
    v: Float[Tensor, "batch dim height width"], kernel: Float[Tensor, "2 1 3 3"]
) -> Int64[Tensor, "batch pixels"]:
    """Rank all pixels by gradient strength times direction, summed over channels.

    Source: equation (6).

    Shapes:
        v: `(batch, dim, height, width)`; kernel: `(2, 1, 3, 3)`.
        output: `(batch, height * width)`, the places of the pixels from small to large.
    """
    with torch.no_grad():
        gx, gy = gradients(v, kernel)
        turn = (torch.atan2(gy, gx) + torch.pi) / (2 * torch.pi)
        score = ((gx.square() + gy.square() + 1e-6).sqrt() * turn).sum(dim=1)
        return score.flatten(1).argsort(dim=-1, stable=True)


def segment_attention(
    q: Float[Tensor, "batch dim pixels"],
    k: Float[Tensor, "batch dim pixels"],
    v: Float[Tensor, "batch dim pixels"],
    temperature: Float[Tensor, "heads 1 1"],
    layout: Literal["contiguous", "strided"],
) -> Float[Tensor, "batch dim pixels"]:
    """Let channels attend to channels, each cut into as many segments of pixels as there are heads.

    Source: equations (7) and (8). Segments are runs of neighbours, or every h-th pixel; zeros fill
    up the last. A row of weights sums to less than one.

    Shapes:
        q, k, v, output: `(batch, dim, pixels)`, dim a multiple of heads; temperature:
        `(heads, 1, 1)`.
    """
    heads, pixels = len(temperature), q.shape[-1]

    def segments(x: Tensor) -> Tensor:
        if pixels % heads:
            x = F.pad(x, (0, -pixels % heads))
        x = x.unflatten(1, (heads, -1))  # batch, heads, c, pixels
        if layout == "contiguous":
            return x.reshape(*x.shape[:2], x.shape[2] * heads, -1)
        return x.unflatten(-1, (-1, heads)).transpose(-2, -1).flatten(2, 3)

    q, k, v = segments(q), segments(k), segments(v)  # batch, heads, c heads, length
    across = torch.linalg.vector_norm(q, dim=-1).clamp(min=1e-12).unsqueeze(-1)
    along = torch.linalg.vector_norm(k, dim=-1).clamp(min=1e-12).unsqueeze(-2)
    weights = (q @ k.mT / across / along * temperature).exp()  # (7)
    out = weights / (weights.sum(dim=-1, keepdim=True) + 1) @ v
    out = out.unflatten(2, (-1, heads))  # batch, heads, c, heads, length
    if layout == "strided":
        out = out.transpose(-2, -1)
    return out.flatten(3).flatten(1, 2)[..., :pixels]


class DHOGSA(nn.Module):
    """Attend over pixels sorted by their gradients, prompted by the features' own HOG.

    A drop-in for the attention of a Restormer-like block.

    Args:
        dim: channels; even, a multiple of `heads`.
        heads: number of heads, and of segments of the order. With one the order has no effect.
        bias: whether convolutions have one.
        guided: without it nothing is sorted and no HOG is added: what is left is plain channel
            attention in segments, of the same size [ours].

    Source: equations (1) to (9); Attention_DHOGSA [code], whose parameter names it has.

    Shapes:
        x, output: `(batch, dim, height, width)`, any height and width. Where they are no multiples
        of 8 the zeros that fill up cells take the place of pixels, as in the official code.
    """

    kernel: Tensor

    def __init__(self, dim: int, heads: int, bias: bool = False, *, guided: bool = True) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"dim must be even and positive, got {dim}")
        if heads < 1 or dim % heads:
            raise ValueError(f"heads must divide dim = {dim}, got {heads}")
        self.dim, self.heads, self.guided = dim, heads, guided
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(dim, 5 * dim, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(5 * dim, 5 * dim, 3, padding=1, groups=5 * dim, bias=bias)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)
        self.bin_proj = nn.Conv2d(BINS, dim // 2, 1, bias=bias)
        self.register_buffer("kernel", sobel(), persistent=False)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, heads={self.heads}, guided={self.guided}"

    def sort_cells(
        self, u: Float[Tensor, "batch half height width"]
    ) -> tuple[
        Float[Tensor, "batch half height width"],
        Float[Tensor, "batch cells 9"],
        Int64[Tensor, "batch cells 64"],
    ]:
        """Sort half of the channels in their cells, and describe these: `(sorted, HOG, order)`.

        Source: equations (1) to (4).

        Shapes:
            u: `(batch, dim / 2, height, width)`.
            output: the same; `(batch, cells, 9)`; `(batch, cells, 64)`.
        """
        histogram, idx = cell_histograms(u, self.kernel)
        moved = _sorted(to_cells(u), idx.unsqueeze(1))
        return from_cells(moved, u.shape[-2], u.shape[-1]), histogram, idx  # (4)

    def prompt(
        self, histogram: Float[Tensor, "batch cells 9"], height: int, width: int
    ) -> Float[Tensor, "batch half height width"]:
        """Make a map of the cells' histograms, to be added to the sorted half.

        Source: equation (5).

        Shapes:
            histogram: `(batch, cells, 9)`; output: `(batch, dim / 2, height, width)`.
        """
        grid = histogram.mT.unflatten(-1, (-(-height // CELL), -(-width // CELL)))
        return F.interpolate(
            self.bin_proj(grid), size=(height, width), mode="bilinear", align_corners=False
        )

    def forward(
        self, x: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch dim height width"]:
        if x.shape[1] != self.dim:
            raise ValueError(f"x must have {self.dim} channels, got shape {tuple(x.shape)}")
        height, width = x.shape[-2:]
        half = self.dim // 2
        idx: Tensor | None = None
        if self.guided:
            first, histogram, idx = self.sort_cells(x[:, :half])
            x = torch.cat([first + self.prompt(histogram, height, width), x[:, half:]], dim=1)
        mixed = self.qkv_dwconv(self.qkv(x))  # (5)
        flat = mixed.flatten(2)
        order: Tensor | None = None
        if self.guided and self.heads > 1:
            order = pixel_order(mixed[:, 4 * self.dim :], self.kernel).unsqueeze(1)  # (6)
            flat = _sorted(flat, order)
        q1, k1, q2, k2, v = flat.chunk(5, dim=1)
        o = segment_attention(q1, k1, v, self.temperature, "contiguous")
        o = o * segment_attention(q2, k2, v, self.temperature, "strided")  # (8)
        if order is not None:
            o = _unsorted(o, order)
        y = self.project_out(o.unflatten(-1, (height, width)))
        if idx is not None:
            cells = _unsorted(to_cells(y[:, :half]), idx.unsqueeze(1))
            y = torch.cat([from_cells(cells, height, width), y[:, half:]], dim=1)
        return y  # (9)


class DIFF(nn.Module):
    """Feed forward through a gate of two depthwise convolutions at twice the resolution.

    A drop-in for the feed-forward of a Restormer-like block.

    Args:
        dim: channels.
        factor: how many times as many there are inside; int(dim * factor) a multiple of 4.
        bias: whether convolutions have one; the one to a single map always has.

    Source: equations (10) to (12); FFN_DIFF [code], whose parameter names it has.

    Shapes:
        x, output: `(batch, dim, height, width)`, any height and width.
    """

    def __init__(self, dim: int, factor: float | int = 2.667, bias: bool = False) -> None:
        super().__init__()
        hidden = int(dim * factor)
        if hidden < 4 or hidden % 4:
            raise ValueError(
                "factor must make int(dim * factor) a positive multiple of 4, "
                f"got int({dim} * {factor}) = {hidden}"
            )
        quarter = hidden // 4
        self.dim = dim
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=bias)
        self.dwconv_5 = nn.Conv2d(quarter, quarter, 5, padding=2, groups=quarter, bias=bias)
        self.dwconv_dilated2_1 = nn.Conv2d(
            quarter, quarter, 3, padding=2, dilation=2, groups=quarter, bias=bias
        )
        self.decompose = nn.Conv2d(quarter, 1, 1)
        self.sigma = _Scale(quarter)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(
        self, x: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch dim height width"]:
        if x.shape[1] != self.dim:
            raise ValueError(f"x must have {self.dim} channels, got shape {tuple(x.shape)}")
        z1, z2 = F.pixel_shuffle(self.project_in(x), 2).chunk(2, dim=1)
        z = F.mish(self.dwconv_dilated2_1(z2)) * self.dwconv_5(z1)  # (10)
        z = z + self.sigma.scale * (z - F.gelu(self.decompose(z)))  # (11)
        return self.project_out(F.pixel_unshuffle(z, 2))  # (12)


class Block(nn.Module):
    """Attend, then feed forward, each on what `normalise` answers and added to its input.

    Args:
        dim: channels.
        heads: of `DHOGSA`.
        factor: of `DIFF`.
        bias: whether convolutions have one.
        layer_norm: "WithBias" takes each pixel's mean away, "BiasFree" leaves it.
        guided: see `DHOGSA`.

    Source: TransformerBlock [code].

    Shapes:
        x, output: `(batch, dim, height, width)`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        factor: float | int = 2.667,
        bias: bool = False,
        layer_norm: str = "WithBias",
        *,
        guided: bool = True,
    ) -> None:
        super().__init__()
        if layer_norm not in ("WithBias", "BiasFree"):
            raise ValueError(f"layer_norm must be 'WithBias' or 'BiasFree', got {layer_norm!r}")
        self.layer_norm = layer_norm
        self.attn_g_spatial = DHOGSA(dim, heads, bias, guided=guided)
        self.ffn = DIFF(dim, factor, bias)

    def forward(
        self, x: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch dim height width"]:
        x = x + self.attn_g_spatial(normalise(x, self.layer_norm))
        return x + self.ffn(normalise(x, self.layer_norm))


class _Scale(nn.Module):
    """σ of (11), by the official name."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, dim, 1, 1), 1e-5))


def _sorted(x: Tensor, order: Tensor) -> Tensor:
    """Take value order[i] to place i."""
    return x.gather(-1, order.expand_as(x))


def _unsorted(x: Tensor, order: Tensor) -> Tensor:
    """Put value i back to place order[i]."""
    return torch.empty_like(x).scatter(-1, order.expand_as(x), x)
