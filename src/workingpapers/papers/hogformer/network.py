"""HOGformer: a U-shaped restorer of four levels, and the official checkpoints of it.

    e1 = L1(3x3 I),   e2 = L2(1x1 [down e1, s1]),   e3 = L3(1x1 [down e2, s2])
    z  = L4(1x1 [down e3, s3]),   d3 = D3(1x1 [up z, e3]),   d2 = D2(1x1 [up d3, e2])
    d1 = R(D1([up d2, e1])),   answer = I + 3x3 d1

with s1, s2, s3 the image halved again and again, each through two small convolutions. Parameter
names are the official ones, so state dictionaries fit both ways; Source: as method.py [code].
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workingpapers.kit import checkpoints
from workingpapers.papers.hogformer.method import Block

STRIDE = 8  # three times halved


class HOGformer(nn.Module):
    """Restore images of unknown degradation; the defaults are the official size (16.6 M).

    Args:
        dim: channels at full resolution; twice as many at each of three halvings.
        num_blocks: blocks of the four levels; decoder levels have as many as encoder levels.
        num_refinement_blocks: blocks at the end, at full resolution.
        heads: of the four levels.
        ffn_expansion_factor: of `DIFF`.
        bias: whether convolutions inside blocks, at joints and at the end have one.
        layer_norm: "WithBias" or "BiasFree", see `normalise`.
        inp_channels: of the image.
        out_channels: of the answer; the same, as the image is added to it.
        guided: see `DHOGSA`; without it the network is the same with HOG taken out [ours].

    Source: HOGformer [code].

    Shapes:
        image: `(batch, inp_channels, height, width)` in 0 to 1, sides multiples of 8. Cells are
        whole at all levels where they are multiples of 64.
        output: the same shape, not clamped.

    Raises:
        ValueError: sizes that do not go together, or a height or width that 8 does not divide.
    """

    def __init__(
        self,
        dim: int = 36,
        num_blocks: Sequence[int] = (4, 4, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float | int = 2.667,
        bias: bool = False,
        layer_norm: str = "WithBias",
        inp_channels: int = 3,
        out_channels: int = 3,
        *,
        guided: bool = True,
    ) -> None:
        super().__init__()
        if inp_channels != out_channels:
            raise ValueError(
                "out_channels must be inp_channels, as the image is added to the answer; "
                f"got {out_channels} and {inp_channels}"
            )
        for name, given in (("num_blocks", num_blocks), ("heads", heads)):
            if len(given) != 4:
                raise ValueError(f"{name} must have a number for each of 4 levels, got {given}")
        if min(*num_blocks, num_refinement_blocks) < 0:
            raise ValueError(
                f"num_blocks and num_refinement_blocks must not be negative, got {num_blocks} "
                f"and {num_refinement_blocks}"
            )
        self.config: dict[str, Any] = {
            "dim": dim,
            "num_blocks": list(num_blocks),
            "num_refinement_blocks": num_refinement_blocks,
            "heads": list(heads),
            "ffn_expansion_factor": ffn_expansion_factor,
            "bias": bias,
            "layer_norm": layer_norm,
            "inp_channels": inp_channels,
            "out_channels": out_channels,
            "guided": guided,
        }
        c = inp_channels

        def level(width: int, number: int, depth: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    Block(width, number, ffn_expansion_factor, bias, layer_norm, guided=guided)
                    for _ in range(depth)
                )
            )

        def joint(wide: int, narrow: int) -> nn.Conv2d:
            return nn.Conv2d(wide, narrow, 1, bias=bias)

        self.patch_embed = _Held(nn.Conv2d(c, dim, 3, padding=1, bias=False))
        self.encoder_level1 = level(dim, heads[0], num_blocks[0])
        self.down1_2 = _Resize(dim, dim // 2, nn.PixelUnshuffle(2))
        self.reduce_chan_level_1 = joint(2 * dim + c, 2 * dim)
        self.encoder_level2 = level(2 * dim, heads[1], num_blocks[1])
        self.down2_3 = _Resize(2 * dim, dim, nn.PixelUnshuffle(2))
        self.reduce_chan_level_2 = joint(4 * dim + c, 4 * dim)
        self.encoder_level3 = level(4 * dim, heads[2], num_blocks[2])
        self.down3_4 = _Resize(4 * dim, 2 * dim, nn.PixelUnshuffle(2))
        self.reduce_chan_level_3 = joint(8 * dim + c, 8 * dim)
        self.latent = level(8 * dim, heads[3], num_blocks[3])
        self.up4_3 = _Resize(8 * dim, 16 * dim, nn.PixelShuffle(2))
        self.reduce_chan_level3 = joint(8 * dim, 4 * dim)
        self.decoder_level3 = level(4 * dim, heads[2], num_blocks[2])
        self.up3_2 = _Resize(4 * dim, 8 * dim, nn.PixelShuffle(2))
        self.reduce_chan_level2 = joint(4 * dim, 2 * dim)
        self.decoder_level2 = level(2 * dim, heads[1], num_blocks[1])
        self.up2_1 = _Resize(2 * dim, 4 * dim, nn.PixelShuffle(2))
        self.decoder_level1 = level(2 * dim, heads[0], num_blocks[0])
        self.refinement = level(2 * dim, heads[0], num_refinement_blocks)
        self.output = nn.Conv2d(2 * dim, c, 3, padding=1, bias=bias)
        self.skip_patch_embed1 = _skip(c)
        self.skip_patch_embed2 = _skip(c)
        self.skip_patch_embed3 = _skip(c)

    def forward_features(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        """Answer what the four levels of the encoder make of an image.

        Source: [code]; offered by itself [ours], to pre-train on telling degradations apart.

        Shapes:
            image: `(batch, inp_channels, height, width)`.
            output: `(batch, dim, height, width)`, `(batch, 2 dim, height / 2, width / 2)`, and so
            on.
        """
        channels = self.config["inp_channels"]
        if image.shape[1] != channels:
            raise ValueError(f"image must have {channels} channels, got {tuple(image.shape)}")
        if image.shape[-2] % STRIDE or image.shape[-1] % STRIDE or 0 in image.shape:
            raise ValueError(
                f"image must have height and width that are multiples of {STRIDE} (`restore` pads "
                f"to them), got {tuple(image.shape)}"
            )
        e1 = self.encoder_level1(self.patch_embed(image))
        s1 = self.skip_patch_embed1(image)
        e2 = self.encoder_level2(self.reduce_chan_level_1(torch.cat([self.down1_2(e1), s1], 1)))
        s2 = self.skip_patch_embed2(s1)
        e3 = self.encoder_level3(self.reduce_chan_level_2(torch.cat([self.down2_3(e2), s2], 1)))
        s3 = self.skip_patch_embed3(s2)
        z = self.latent(self.reduce_chan_level_3(torch.cat([self.down3_4(e3), s3], 1)))
        return [e1, e2, e3, z]

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        e1, e2, e3, z = self.forward_features(image)
        d3 = self.decoder_level3(self.reduce_chan_level3(torch.cat([self.up4_3(z), e3], 1)))
        d2 = self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(d3), e2], 1)))
        d1 = self.refinement(self.decoder_level1(torch.cat([self.up2_1(d2), e1], 1)))
        return image + self.output(d1)


def from_official(
    state: Mapping[str, Any],
    *,
    layer_norm: str = "WithBias",
    ffn_expansion_factor: float | int | None = None,
) -> HOGformer:
    """Build the network that an official state dictionary is of, and fill it.

    All sizes are read off the tensors. The released files hold the weights as "params" (setting I)
    or as "state_dict" with a leading "net." (settings III and IV, with buffers of the loss beside
    them); both are seen through, and so is "module.".

    Args:
        state: tensors by official name, or a checkpoint that holds them.
        layer_norm: which the network was trained with; no tensor tells.
        ffn_expansion_factor: which it was built with; left out, the shortest number that gives the
            sizes at hand.

    Source: BasicSR's and Lightning's layouts [code].

    Shapes:
        as the official ones.

    Raises:
        ValueError: these are not the weights of a HOGformer; the message names what is amiss.
    """
    weights = _unwrapped(state)
    depths: dict[str, int] = {}
    for name in weights:
        if found := re.match(r"(\w+)\.(\d+)\.", name):
            depths[found[1]] = max(depths.get(found[1], 0), int(found[2]) + 1)
    levels = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
    needed = [
        "patch_embed.proj.weight",
        *(f"{name}.0.attn_g_spatial.temperature" for name in levels),
    ]
    if missing := [name for name in needed if name not in weights]:
        raise ValueError(f"state must hold a HOGformer's weights, it has no {missing[0]}")
    dim, channels = weights["patch_embed.proj.weight"].shape[:2]
    hidden = {
        dim * 2**i: weights[f"{name}.0.ffn.project_in.weight"].shape[0] // 2
        for i, name in enumerate(levels)
    }
    model = HOGformer(
        dim,
        [depths[name] for name in levels],
        depths.get("refinement", 0),
        [len(weights[f"{name}.0.attn_g_spatial.temperature"]) for name in levels],
        _factor(hidden) if ffn_expansion_factor is None else ffn_expansion_factor,
        "encoder_level1.0.attn_g_spatial.qkv.bias" in weights,
        layer_norm,
        channels,
        channels,
    )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"state must fit the HOGformer it describes: {error}") from None
    return model


def load_official(
    path: str | Path,
    setting: str | None = None,
    *,
    layer_norm: str = "WithBias",
    trust: bool = False,
) -> HOGformer:
    """Read a released checkpoint file: `net_g_latest.pth`, or a Lightning one without Lightning.

    Args:
        path: the file.
        setting: "I" (weather), "III" or "IV" (three or five degradations), to make sure that the
            file is of that kind; left out, any is read.
        layer_norm: see `from_official`.
        trust: unpickle whatever the file holds, which can run any program; only for files whose
            makers you trust. Without it files with more than tensors and plain values are refused.

    Source: [code].

    Raises:
        ValueError: the file is refused, is not of that setting, or holds no HOGformer.
    """
    if setting not in (None, "I", "III", "IV"):
        raise ValueError(f"setting must be 'I', 'III' or 'IV', got {setting!r}")
    found = checkpoints.read(path, "a HOGformer", trust=trust)
    key = "params" if setting == "I" else "state_dict"
    if setting is not None and key not in found:
        raise ValueError(
            f"path must hold {key!r}, as checkpoints of setting {setting} do; "
            f"{path} has {', '.join(map(str, list(found)[:5]))}"
        )
    return from_official(found, layer_norm=layer_norm)


def _unwrapped(state: Mapping[str, Any]) -> dict[str, Tensor]:
    for key in ("params_ema", "params", "state_dict", "model"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if any(name.startswith("net.") for name in state):
        state = {name[4:]: w for name, w in state.items() if name.startswith("net.")}
    weights = {name.removeprefix("module."): w for name, w in state.items()}
    for name, weight in weights.items():
        if not isinstance(weight, Tensor):
            raise ValueError(f"state must hold tensors by name, {name} is {type(weight).__name__}")
    # constants, and the one convolution that the official network builds and never calls
    return {
        name: w
        for name, w in weights.items()
        if not name.endswith((".sobel_x", ".sobel_y")) and not name.startswith("skip_conv.")
    }


def _factor(hidden: Mapping[int, int]) -> float:
    """The shortest number that makes int(dim * factor) what it is for every dim."""
    low = max(inside / dim for dim, inside in hidden.items())
    for digits in range(16):
        for factor in (round(low, digits), round(low + 10**-digits, digits)):
            if all(int(dim * factor) == inside for dim, inside in hidden.items()):
                return factor
    raise ValueError(f"state must have int(dim * factor) features inside, it has {dict(hidden)}")


class _Held(nn.Module):
    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class _Resize(nn.Module):
    def __init__(self, dim: int, inside: int, shuffle: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(dim, inside, 3, padding=1, bias=False), shuffle)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def _skip(channels: int) -> _Held:
    return _Held(
        nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        )
    )
