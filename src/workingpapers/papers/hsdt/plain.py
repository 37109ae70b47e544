"""What HSDT is measured against: its own skeleton with nothing in it but convolutions.

Source: [code] has it as the plainest block of its ablations: a full 3-D convolution and tanh.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from workingpapers.papers.hsdt.method import S3Conv, conv3d, cube, frames, start
from workingpapers.papers.hsdt.network import Kind, require_cube, resize, u_net, widths


class PlainBlock(nn.Module):
    """A convolution, batch norm where wanted, and tanh."""

    def __init__(
        self, in_channels: int, out_channels: int, kind: Kind, norm: bool, separable: bool
    ) -> None:
        super().__init__()
        self.kind = kind
        self.conv: nn.Module
        if kind == "plain" and separable:
            self.conv = S3Conv(in_channels, out_channels)
        else:
            self.conv = nn.Conv3d(in_channels, out_channels, 3, bias=False)
        self.bn = nn.BatchNorm2d(out_channels) if norm else nn.Identity()

    def forward(
        self, x: Float[Tensor, "batch c_in bands h w"]
    ) -> Float[Tensor, "batch c_out bands h_out w_out"]:
        if isinstance(self.conv, S3Conv):
            h = self.conv(x)
        else:
            h = resize(x, self.conv, self.kind)
        return cube(self.bn(frames(h)), len(x)).tanh()


class PlainUNet(nn.Module):
    """Denoise a cube with 3-D convolutions alone, in the skeleton of `HSDT`.

    Args:
        channels: width of the first block; doubled where the sizes are halved.
        num_half_layer: how many blocks go down, and as many up.
        sample_idx: which of them halve and double height and width.
        norm: batch norm after each convolution.
        separable: `S3Conv` where `HSDT` has it.

    Source: the plainest block of the official code's ablations, in the skeleton of its HSDT.

    Shapes:
        x: `(batch, 1, bands, h, w)`, h and w multiples of `multiple`; output: the same.
    """

    def __init__(
        self,
        channels: int,
        num_half_layer: int,
        sample_idx: Sequence[int],
        norm: bool = False,
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = 1
        self.multiple = 2 ** len(sample_idx)
        plan = widths(channels, num_half_layer, sample_idx)

        def block(c_in: int, c_out: int, kind: Kind) -> PlainBlock:
            return PlainBlock(c_in, c_out, kind, norm, separable)

        wider = {"plain": 1, "down": 2}
        self.head = block(1, channels, "plain")
        self.encoder = nn.ModuleList(block(c, c * wider[kind], kind) for c, kind in plan)
        self.decoder = nn.ModuleList(
            block(c * wider[kind], c, "up" if kind == "down" else "plain")
            for c, kind in reversed(plan)
        )
        self.tail = nn.Conv3d(channels, 1, 3)
        start(self)
        # HSDT starts as the identity, since its linear maps do. Without that these networks would
        # spend most of a short training on getting there [ours].
        nn.init.normal_(self.tail.weight, std=1e-3)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "batch 1 bands h w"]:
        require_cube(x, 1, self.multiple)
        return u_net(x, self.head, self.encoder, self.decoder, self._predict)

    def _predict(self, h: Tensor) -> Tensor:
        return conv3d(h, self.tail.weight, self.tail.bias, padding=(1, 1, 1))
