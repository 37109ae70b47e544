"""How long fusion takes: the official formulation against ours, ragged sets, and stage 2.

Expect no difference worth naming between the two formulations where one slot is used, since
nearly all the time goes into one matrix product; segments to win over padding in proportion to
the padding; and stage 2 on kept features to cost a small part of stage 2 from pictures.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from workingpapers.kit.timing import interleaved
from workingpapers.papers.attsets.faset import FASet
from workingpapers.papers.attsets.method import AttSets
from workingpapers.papers.attsets.network import MultiViewReconstructor
from workingpapers.papers.attsets.voxels import voxel_loss

Row = dict[str, str | float]


def _tiled(pool: AttSets, x: Tensor) -> Tensor:
    """The official order of operations, with the elements repeated for every slot."""
    batch, n, dim = x.shape
    weight = pool.score.weight.t()
    activations = (x.reshape(batch * n, dim) @ weight + pool.score.bias).reshape(batch, n, -1)
    scores = activations.softmax(dim=1).reshape(batch, n, pool.slots, dim)
    tiled = x.unsqueeze(2).repeat(1, 1, pool.slots, 1)
    return (tiled * scores).sum(dim=1).flatten(1)


def _milliseconds(runs: dict[str, Callable[[], object]], repeats: int = 31) -> dict[str, float]:
    return {name: 1e3 * s for name, s in interleaved(runs, repeats=repeats, warmup=3).items()}


def formulation(report: Callable[[str], None]) -> list[Row]:
    """Forward and backward of the module, official formulation and ours."""
    rows: list[Row] = []
    rng = torch.Generator().manual_seed(0)
    for batch, n, dim, slots in ((4, 24, 1024, 1), (64, 24, 128, 1), (4, 24, 256, 4)):
        report(f"{batch} sets of {n} elements, {dim} features, {slots} slots")
        x = torch.randn(batch, n, dim, generator=rng, requires_grad=True)
        pool = AttSets(dim, slots)

        def official(pool: AttSets = pool, x: Tensor = x) -> None:
            _tiled(pool, x).sum().backward()

        def ours(pool: AttSets = pool, x: Tensor = x) -> None:
            pool(x).sum().backward()

        taken = _milliseconds({"official": official, "ours": ours})
        rows.append(
            {
                "sets": batch,
                "elements": n,
                "features": dim,
                "slots": slots,
                "official, ms (median)": round(taken["official"], 2),
                "ours, ms (median)": round(taken["ours"], 2),
            }
        )
    return rows


def ragged(report: Callable[[str], None]) -> list[Row]:
    """Sets of unequal size, padded with a mask against segments, forward and backward."""
    rows: list[Row] = []
    rng = torch.Generator().manual_seed(0)
    for longest in (8, 64, 512):
        report(f"64 sets of 1 to {longest} elements")
        sizes = torch.randint(1, longest + 1, (64,), generator=rng)
        sizes[0] = longest
        mask = torch.arange(longest) < sizes[:, None]
        padded = torch.randn(64, longest, 128, generator=rng)
        flat, index = padded[mask], torch.arange(64).repeat_interleave(sizes)
        pool = AttSets(128)

        def with_mask(pool: AttSets = pool, x: Tensor = padded, mask: Tensor = mask) -> None:
            pool(x, mask).sum().backward()

        def segments(pool: AttSets = pool, x: Tensor = flat, index: Tensor = index) -> None:
            y = pool.segment(x, index, 64)
            assert isinstance(y, Tensor)
            y.sum().backward()

        taken = _milliseconds({"padded": with_mask, "segments": segments})
        rows.append(
            {
                "longest": longest,
                "share present": round(mask.float().mean().item(), 2),
                "padded, ms (median)": round(taken["padded"], 2),
                "segments, ms (median)": round(taken["segments"], 2),
            }
        )
    return rows


def stage2(report: Callable[[str], None]) -> list[Row]:
    """One step of FASet's second stage on a narrow reconstructor, three ways."""
    report("2 sets of 8 pictures of 127 pixels, widths / 8")
    rng = torch.Generator().manual_seed(0)
    net = MultiViewReconstructor(127, (12, 16, 32, 32, 32, 32), 128, (16, 16, 16, 8, 4))
    images = torch.rand(2, 8, 3, 127, 127, generator=rng)
    voxels = (torch.rand(2, 32, 32, 32, generator=rng) > 0.8).float()
    faset = FASet(net, loss_fn=voxel_loss)
    features = faset.encode(images)

    def whole() -> None:
        loss = F.binary_cross_entropy_with_logits(net(images), voxels)
        torch.autograd.grad(loss, [*net.parameters()])

    taken = _milliseconds(
        {
            "whole graph": whole,
            "base frozen": lambda: faset.step((images, voxels), 2),
            "features kept": lambda: faset.step((features, voxels), 2, encoded=True),
        },
        repeats=7,
    )
    return [{"stage 2": name, "ms (median)": round(ms, 1)} for name, ms in taken.items()]


BENCHES: dict[str, Callable[[Callable[[str], None]], list[Row]]] = {
    "formulation": formulation,
    "ragged": ragged,
    "stage2": stage2,
}
