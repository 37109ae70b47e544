"""What HSDT costs: beside the plainest network of its size, and as cubes grow.

"pixels" and "bands" run HSDT-S (134 k parameters) and a U-Net of plain 3-D convolutions in the same
skeleton (9 channels, 136 k) over one cube without gradients. Memory is what the peak of a fresh
process grows by during one run. Expect HSDT to take a tenth to a half more time and a third more
memory, both to grow as pixels do, and the attention's quadratic term to show in the bands only
at hundreds of them.

"formulation" times the modules as the official code orders their operations, and as we do.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.timing import interleaved
from workingpapers.papers.hsdt.method import GSSA, SMFFN, S3Conv
from workingpapers.papers.hsdt.network import hsdt_s
from workingpapers.papers.hsdt.plain import PlainUNet

Row = dict[str, str | float]

NAMES = ("HSDT-S", "plain 3-D U-Net")


def _network(name: str) -> nn.Module:
    net: nn.Module = hsdt_s(flex=True) if name == "HSDT-S" else PlainUNet(9, 5, (1, 3))
    return net.eval()


def _peak() -> float:
    """Megabytes of this process at its largest."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux counts the parent's peak as the child's in what getrusage tells
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _memory(name: str, bands: int, side: int) -> float:
    """Megabytes that the process's peak grows by while the network runs once."""
    net = _network(name)
    with torch.no_grad():
        net(torch.rand(1, 1, bands, 8, 8))
        x = torch.rand(1, 1, bands, side, side)
        before = _peak()
        net(x)
    return _peak() - before


def _compare(sizes: list[tuple[int, int]], report: Callable[[str], None]) -> list[Row]:
    rows: list[Row] = []
    nets = {name: _network(name) for name in NAMES}
    fresh = partial(ProcessPoolExecutor, 1, get_context("spawn"), max_tasks_per_child=1)
    for bands, side in sizes:
        report(f"{bands} bands of {side}x{side} pixels")
        x = torch.rand(1, 1, bands, side, side)
        with torch.no_grad():
            taken = interleaved({name: partial(net, x) for name, net in nets.items()}, repeats=5)
        for name in NAMES:
            with fresh() as process:
                grown = process.submit(_memory, name, bands, side).result()
            rows.append(
                {
                    "network": name,
                    "bands": bands,
                    "side, pixels": side,
                    "seconds (median)": round(taken[name], 3),
                    "peak memory, MB": round(grown),
                }
            )
    return rows


def pixels(report: Callable[[str], None]) -> list[Row]:
    """Forward time and memory at 31 bands as the image grows."""
    return _compare([(31, side) for side in (32, 64, 128)], report)


def bands(report: Callable[[str], None]) -> list[Row]:
    """Forward time and memory at 32x32 pixels as the bands grow."""
    return _compare([(count, 32) for count in (16, 31, 62, 124, 248)], report)


def _official_s3(conv: S3Conv, x: Tensor) -> Tensor:
    first, second = (c.weight for c in conv.dw_conv if isinstance(c, nn.Conv3d))
    y = F.leaky_relu(F.conv3d(x, first, padding=(0, 1, 1)))
    y = F.leaky_relu(F.conv3d(y, second, padding=(0, 1, 1)))
    return y + F.conv3d(x, conv.pw_conv.weight, padding=(1, 0, 0))


def _official_attention(attention: GSSA, x: Tensor) -> Tensor:
    """Pixel by pixel: small matrix products of bands by channels."""
    weights = attention.attention(x, "guided")
    pixel = x.permute(0, 3, 4, 2, 1)  # batch, h, w, bands, channels
    y = attention.fc(weights[:, None, None] @ attention.value_proj(pixel)) + pixel
    return y.permute(0, 4, 3, 1, 2)


def _official_feed(feed: SMFFN, x: Tensor) -> Tensor:
    voxel = x.permute(0, 2, 3, 4, 1)
    a, gate = feed.w_3(voxel).chunk(2, dim=-1)
    y = feed.w_2(F.gelu(feed.w_1(voxel))) + a * gate.sigmoid()
    return y.permute(0, 4, 1, 2, 3).contiguous()


def formulation(report: Callable[[str], None]) -> list[Row]:
    """Forward time of each module, official order of operations and ours."""
    rows: list[Row] = []
    for channels, side in ((8, 64), (16, 64), (32, 32)):
        report(f"{channels} channels, 31 bands of {side}x{side}")
        x = torch.rand(1, channels, 31, side, side)
        inside = x.transpose(1, 2).contiguous().transpose(1, 2)  # as it lies between our layers
        conv, attention, feed = S3Conv(channels, channels), GSSA(channels, 31), SMFFN(channels)
        runs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "S3Conv": (partial(_official_s3, conv, x), partial(conv, inside)),
            "GSSA": (
                partial(_official_attention, attention, x),
                partial(attention, inside, "guided"),
            ),
            "SMFFN": (partial(_official_feed, feed, x), partial(feed, inside)),
        }
        for name, (official, ours) in runs.items():
            with torch.no_grad():
                taken = interleaved({"official": official, "ours": ours}, repeats=9, warmup=2)
            rows.append(
                {
                    "module": name,
                    "channels": channels,
                    "side, pixels": side,
                    "official, ms (median)": round(1e3 * taken["official"], 1),
                    "ours, ms (median)": round(1e3 * taken["ours"], 1),
                }
            )
    return rows


BENCHES: dict[str, Callable[[Callable[[str], None]], list[Row]]] = {
    "pixels": pixels,
    "bands": bands,
    "formulation": formulation,
}
