"""The paper's base network: voxels of an object from any number of pictures of it.

Source: Yang7879/AttSets@cfef26a, `Network.base_r2n2` of main_AttSets.py [code]; the encoder and
decoder are those of 3D-R2N2 with AttSets in the recurrent unit's place [paper].

All activations are leaky ReLU of slope 0.2; a shortcut is added after the activation and nothing
follows the sum [code]. Pools and strided layers keep TensorFlow's "SAME" alignment:

    pool 2x2                        ceil(n / 2) positions
    transposed 3x3x3, stride 2      n to 2n: 2n + 1 without padding, the last plane dropped
    transposed 1x1x1, stride 2      n to 2n: odd positions hold the bias alone
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.attsets.method import AttSets
from workingpapers.papers.attsets.official import (
    Layer,
    layer,
    to_tensorflow,
    to_torch,
    unscoped,
)
from workingpapers.papers.attsets.sets import encode_each

SLOPE = 0.2  # [code]
# Official names of each stage's two layers and its shortcut [code].
_VIEW_STAGES = (
    ("l1", "l2", None),
    ("l3", "l4", "l22"),
    ("l5", "l6", "l44"),
    ("l7", "l8", None),
    ("l9", "l10", "l88"),
    ("l11", "l12", "l1010_p"),
)
_VOXEL_STAGES = (
    ("ld1", "ld2", "ld00"),
    ("ld3", "ld4", "ld22"),
    ("ld5", "ld6", "ld44"),
    ("ld7", "ld8", "ld77"),
)


class _ViewStage(nn.Module):
    """Two convolutions, a shortcut perhaps, and a pool that halves the map, rounding up."""

    def __init__(self, inside: int, outside: int, kernel: int, shortcut: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, kernel, padding=kernel // 2)
        self.second = nn.Conv2d(outside, outside, 3, padding=1)
        self.shortcut = nn.Conv2d(inside, outside, 1) if shortcut else None

    def forward(self, x: Float[Tensor, "m c h w"]) -> Float[Tensor, "m d p q"]:
        y = F.leaky_relu(self.first(x), SLOPE)
        y = F.leaky_relu(self.second(y), SLOPE)
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        return F.max_pool2d(y, 2, ceil_mode=True)


class ViewEncoder(nn.Module):
    """Turn pictures into feature vectors: the encoder of the paper's base network.

    Args:
        image_size: side of the square pictures.
        widths: channels of the six stages.
        latent: features of a picture.

    Shapes:
        images: `(m, 3, image_size, image_size)` in 0..1; output: `(m, latent)`.

    Source: [code, base_r2n2].
    """

    def __init__(self, image_size: int, widths: Sequence[int], latent: int) -> None:
        super().__init__()
        if len(widths) != len(_VIEW_STAGES):
            raise ValueError(f"encoder_widths must be {len(_VIEW_STAGES)}, got {tuple(widths)}")
        if min(image_size, latent, *widths) < 1:
            raise ValueError("image_size, latent and encoder_widths must be positive")
        self.image_size, self.widths, self.latent = image_size, tuple(widths), latent
        self.stages = nn.ModuleList(
            _ViewStage(inside, outside, 3 if number else 7, names[2] is not None)
            for number, (names, inside, outside) in enumerate(
                zip(_VIEW_STAGES, (3, *widths[:-1]), widths, strict=True)
            )
        )
        side = _grid(image_size)
        self.dense = nn.Linear(side * side * widths[-1], latent)

    def forward(self, images: Float[Tensor, "m c h w"]) -> Float[Tensor, "m latent"]:
        want = (3, self.image_size, self.image_size)
        if images.shape[1:] != want:
            raise ValueError(f"images must be {want} each, got {tuple(images.shape[1:])}")
        for stage in self.stages:
            images = stage(images)
        flat = images.permute(0, 2, 3, 1).flatten(1)  # (height, width, channel) as in [code]
        return F.leaky_relu(self.dense(flat), SLOPE)


class _VoxelStage(nn.Module):
    """Two transposed convolutions and a shortcut; doubles the grid where `stride` is 2."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        padding = 0 if stride == 2 else 1
        self.first = nn.ConvTranspose3d(inside, outside, 3, stride, padding)
        self.second = nn.ConvTranspose3d(outside, outside, 3, padding=1)
        self.shortcut = (
            nn.ConvTranspose3d(inside, outside, 1, 2, output_padding=1)
            if stride == 2
            else nn.ConvTranspose3d(outside, outside, 3, padding=1)
        )

    def forward(self, x: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b e p q r"]:
        y = self.first(x)
        if self.stride == 2:
            y = y[..., :-1, :-1, :-1]  # SAME keeps the first 2n of 2n + 1 planes
        y = F.leaky_relu(y, SLOPE)
        last = F.leaky_relu(self.second(y), SLOPE)
        if self.stride == 2:
            return last + self.shortcut(x)
        return last + F.leaky_relu(self.shortcut(y), SLOPE)


class VoxelDecoder(nn.Module):
    """Turn feature vectors into voxel grids: the decoder of the paper's base network.

    Args:
        latent: features of a vector.
        widths: channels of the 4x4x4 grid and of the four stages.

    Shapes:
        fused: `(batch, latent)`; output: logits `(batch, 32, 32, 32)`.

    Source: [code, base_r2n2].
    """

    def __init__(self, latent: int, widths: Sequence[int]) -> None:
        super().__init__()
        if len(widths) != len(_VOXEL_STAGES) + 1:
            raise ValueError(f"decoder_widths must be {len(_VOXEL_STAGES) + 1}, got {(*widths,)}")
        if min(latent, *widths) < 1:
            raise ValueError("latent and decoder_widths must be positive")
        self.latent, self.widths = latent, tuple(widths)
        self.dense = nn.Linear(latent, 4**3 * widths[0])
        self.stages = nn.ModuleList(
            _VoxelStage(inside, outside, 2 if names[2] != "ld77" else 1)
            for names, inside, outside in zip(_VOXEL_STAGES, widths[:-1], widths[1:], strict=True)
        )
        self.out = nn.ConvTranspose3d(widths[-1], 1, 3, padding=1)

    def forward(self, fused: Float[Tensor, "b latent"]) -> Float[Tensor, "b 32 32 32"]:
        flat = F.leaky_relu(self.dense(fused), SLOPE)
        grid = flat.reshape(-1, 4, 4, 4, self.widths[0]).permute(0, 4, 1, 2, 3)
        for stage in self.stages:
            grid = stage(grid)
        return self.out(grid).squeeze(1)


class MultiViewReconstructor(nn.Module):
    """Reconstruct an object's voxels from any number of pictures of it.

    Args:
        image_size: side of the square pictures.
        encoder_widths: channels of the encoder's six stages.
        latent: features of a picture.
        decoder_widths: channels of the decoder's first grid and of its four stages.
        pool: what fuses `latent` features; an AttSets when left out.

    Shapes:
        images: `(batch, n, 3, image_size, image_size)` in 0..1, any n >= 1.
        mask: `(batch, n)`, true where there is a picture; the others are not encoded.
        output: logits `(batch, 32, 32, 32)` in the order depth, height, width.

    Source: [code, base_r2n2]; 17,709,025 parameters as released.
    """

    def __init__(
        self,
        image_size: int = 127,
        encoder_widths: Sequence[int] = (96, 128, 256, 256, 256, 256),
        latent: int = 1024,
        decoder_widths: Sequence[int] = (128, 128, 128, 64, 32),
        pool: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = ViewEncoder(image_size, encoder_widths, latent)
        self.decoder = VoxelDecoder(latent, decoder_widths)
        for module in self.modules():
            if isinstance(module, Layer):
                nn.init.xavier_uniform_(module.weight)  # [code]
                if module.bias is not None:
                    nn.init.zeros_(module.bias)  # [code]
        self.pool = AttSets(latent) if pool is None else pool

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this network anew, but for the pool."""
        return {
            "image_size": self.encoder.image_size,
            "encoder_widths": list(self.encoder.widths),
            "latent": self.encoder.latent,
            "decoder_widths": list(self.decoder.widths),
        }

    def encode(
        self, images: Float[Tensor, "batch n c h w"], mask: Tensor | None = None
    ) -> Float[Tensor, "batch n latent"]:
        """Features of every picture; those of an absent one are zeros."""
        return encode_each(self.encoder, images, mask)

    def decode(self, fused: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 32 32 32"]:
        """Logits of the voxels."""
        return self.decoder(fused)

    def forward(
        self, images: Float[Tensor, "batch n c h w"], mask: Tensor | None = None
    ) -> Float[Tensor, "batch 32 32 32"]:
        return self.decode(self.pool(self.encode(images, mask), mask))

    @torch.no_grad()
    def reconstruct(
        self,
        images: Float[Tensor, "batch n c h w"],
        mask: Tensor | None = None,
        threshold: float = 0.25,
    ) -> Bool[Tensor, "batch 32 32 32"]:
        """Voxels whose probability is above `threshold`; 0.25 is the released demo's [code]."""
        return self(images, mask).sigmoid() > threshold

    def official_layers(self) -> dict[str, Layer]:
        """The layers by official name; `att_1st` is there where the pool is an AttSets."""
        found: dict[str, Layer] = {"lfc1": self.encoder.dense, "lfc2": self.decoder.dense}
        for stages, names in (
            (self.encoder.stages, _VIEW_STAGES),
            (self.decoder.stages, _VOXEL_STAGES),
        ):
            for stage, (first, second, shortcut) in zip(stages, names, strict=True):
                assert isinstance(stage, _ViewStage | _VoxelStage)
                found |= {first: stage.first, second: stage.second}
                if shortcut is not None and stage.shortcut is not None:
                    found[shortcut] = stage.shortcut
        found["ld11"] = self.decoder.out
        if isinstance(self.pool, AttSets):
            found["att_1st"] = self.pool.score
        return found

    @classmethod
    def from_official(
        cls, state: Mapping[str, Any], image_size: int = 127
    ) -> "MultiViewReconstructor":
        """Build the network that an official checkpoint holds; all widths are read from it.

        Args:
            state: numpy arrays or tensors by TensorFlow name (`r2n/l1_w`, ...), as
                `tf.train.load_checkpoint` gives them; Adam's slots may be among them.
            image_size: side of the pictures, which the arrays leave open.
        """
        arrays = unscoped(state)
        weights = {
            name: layer(arrays, name)[0]
            for names in (*_VIEW_STAGES, *_VOXEL_STAGES, ("lfc1", "lfc2", "ld11"))
            for name in names
            if name is not None
        }
        views = [weights[second].shape[-1] for _, second, _ in _VIEW_STAGES]
        voxels = [weights["ld1"].shape[-1]]
        voxels += [weights[second].shape[-2] for _, second, _ in _VOXEL_STAGES]
        pool = AttSets.from_official(arrays)
        flat = _grid(image_size) ** 2 * views[-1]
        if weights["lfc1"].shape[0] != flat:
            raise ValueError(
                f"image_size must fit lfc1_w of shape {tuple(weights['lfc1'].shape)}: pictures of "
                f"{image_size} pixels give {flat} values, not {weights['lfc1'].shape[0]}"
            )
        net = cls(image_size, views, weights["lfc1"].shape[1], voxels, pool)
        for name, module in net.official_layers().items():
            to_torch(module, *layer(arrays, name), name)
        return net

    def to_official(self, *, gradients: bool = False) -> dict[str, Float[Tensor, "..."]]:
        """The weights under official names and in official axis order, or their gradients.

        Args:
            gradients: give `.grad` in place of the weights, where there is one.
        """
        found = {}
        for name, module in self.official_layers().items():
            weight, bias = module.weight, module.bias
            for kind, tensor in (("w", weight), ("b", bias)):
                value = tensor.grad if gradients and tensor is not None else tensor
                if value is not None:
                    turned = to_tensorflow(module, value) if kind == "w" else value
                    found[f"r2n/{name}_{kind}"] = turned.detach().clone()
        return found


def _grid(image_size: int) -> int:
    """Side of the last feature map: six halvings, each rounded up."""
    return math.ceil(image_size / 2 ** len(_VIEW_STAGES))
