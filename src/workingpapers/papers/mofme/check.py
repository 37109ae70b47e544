"""Does MoFME save parameters and time against a plain mixture of experts, at no loss of quality?

"parameters": the whole official network with 128 experts, counted in the official layout, against
the same network whose experts are whole feed-forwards. Nothing is allocated. The ablated twin gives
every modulated expert an adaptor of its own: without the shared block nothing is saved. Exact and
at once; the seed has no effect.

"time": one image of 240x240 through the same two networks with random weights, all experts
answering for all tokens, as the official code lets them. "time-chosen": the same with both
networks running only the four experts that a token uses, which gives the same answers. A seed draws
the image. The ablated twin is the plain mixture timed once more. Expect 0.7 saved, and a quarter:
with the experts chosen, head and tail take most of the time. A quarter of a minute a seed for both;
1.6 GB. Needs a quiet machine.

"quality": small networks (64 numbers a token, 2 layers, 8 experts, 2 of them used) learn to remove
rain, snow and haze from crops of the 11 wallpapers for 200 steps: MoFME with the uncertainty-aware
router as we read it, against the plain mixture with a linear one, which has twice the parameters.
PSNR is scikit-image's, over 6 pictures that nobody trained on times the three kinds of weather,
restored in overlapping crops. All saw the same crops in the same order, each at the best of the
four rates of the pilot, of three for "equal-size". The ablated twin has no experts at all, but one
feed-forward. "equal-size": the same with as many more experts in MoFME as make the two equal in
parameters. Expect no verdict: this early in training seeds differ by more than networks, and no
experts do as well as the plain mixture. The paper trains for 200 epochs on All-weather. A minute a
seed for both on one core. The longer variant has fifteen times the steps. [ours]
"""

from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.core.types import Check, Measurement
from workingpapers.kit.data.photographs import photographs, test_pictures
from workingpapers.kit.degradations import Kind, degrade
from workingpapers.kit.images import quality as measured
from workingpapers.kit.timing import interleaved
from workingpapers.papers.mofme.method import FMELayer, feed_forward
from workingpapers.papers.mofme.mixture import FFNMixture
from workingpapers.papers.mofme.network import MoFME, NaiveMoE, Restorer, ViTRestorer
from workingpapers.papers.mofme.official import to_official
from workingpapers.papers.mofme.restoring import restore

EXPERTS, SIDE = 128, 240

WEATHER: tuple[Kind, ...] = ("rain", "snow", "haze")
HELD_OUT = ("astronaut", "chelsea", "coffee", "motorcycle_left", "retina", "rocket")
CROP, BATCH, SCORED = 32, 12, 96


def millions(model: Restorer) -> float:
    return sum(w.numel() for w in to_official(model).values()) / 1e6


def parameters(seed: int, *, ablate: bool = False) -> Measurement:
    with torch.device("meta"):
        ours, plain = MoFME(num_experts=EXPERTS), NaiveMoE(num_experts=EXPERTS)
        own = feed_forward(384, 4, 0.0)  # an adaptor for each expert but the first
    method = millions(ours)
    if ablate:
        extra = sum(p.numel() for p in own.parameters()) * (EXPERTS - 1) * len(ours.layers)
        method += extra / 1e6
    return Measurement(seed, method, millions(plain))


@cache
def large() -> dict[str, Restorer]:
    with torch.random.fork_rng(devices=[]):  # leaves the caller's generator as it was
        torch.manual_seed(0)
        return {
            "mofme": MoFME(num_experts=EXPERTS).eval(),
            "plain": NaiveMoE(num_experts=EXPERTS).eval(),
        }


def run(model: Restorer, image: Tensor, sparse: bool) -> None:
    for module in model.modules():
        if isinstance(module, FMELayer | FFNMixture):
            module.sparse = sparse
    with torch.no_grad():
        model(image)


@cache
def seconds(seed: int, sparse: bool) -> dict[str, float]:
    models = large()
    image = 2 * torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) - 1
    run(models["mofme"], image, True)
    runs = {
        "mofme": partial(run, models["mofme"], image, sparse),
        "plain": partial(run, models["plain"], image, sparse),
        "again": partial(run, models["plain"], image, sparse),
    }
    repeats, warmup = (3, 1) if sparse else (1, 0)  # the long ones need neither
    return interleaved(runs, repeats=repeats, warmup=warmup)


def _time(sparse: bool, seed: int, *, ablate: bool = False) -> Measurement:
    found = seconds(seed, sparse)
    return Measurement(seed, found["again" if ablate else "mofme"], found["plain"])


@dataclass(frozen=True)
class Arm:
    """A network, and the rate that suited it best."""

    name: str
    rate: float


STEPS, LONGER = 200, 3000
OURS = Arm("mofme", 4e-3)
EQUAL = Arm("equal", 2e-3)
PLAIN = Arm("plain", 4e-3)
NONE = Arm("none", 4e-3)


def small(kind: type[Restorer], experts: int = 8, router: str = "linear") -> Restorer:
    return kind(
        CROP,
        64,
        2,
        experts,
        2,
        router=router,
        patch_size=4,
        heads=4,
        dim_head=16,
        out_ch=8,
        out_ch_scale=1,
        dropout=0.0,
    )


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@cache
def equal_experts() -> int:
    """How many modulated experts make as many parameters as 8 whole ones."""
    with torch.device("meta"):
        goal = size(small(NaiveMoE))
        return min(range(8, 64), key=lambda count: abs(size(small(MoFME, count)) - goal))


def build(name: str, seed: int) -> Restorer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "plain":
            return small(NaiveMoE)
        if name == "none":
            return small(ViTRestorer)
        if name == "linear":
            return small(MoFME)
        return small(MoFME, equal_experts() if name == "equal" else 8, "uncertainty")


@cache
def batches(seed: int, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Clean and spoiled crops of the wallpapers, as many of each weather, the same for all."""
    rng = torch.Generator().manual_seed(seed)
    pictures, pairs = photographs(), []
    for _ in range(steps):
        clean = torch.stack([crop(pictures, rng) for _ in range(BATCH)])
        parts = clean.chunk(len(WEATHER))
        spoiled = [degrade(x, kind, rng) for x, kind in zip(parts, WEATHER, strict=True)]
        pairs.append((clean, 2 * torch.cat(spoiled) - 1))
    return pairs


def crop(pictures: list[Tensor], rng: torch.Generator) -> Tensor:
    """A square of a picture, in one of 8 flips and turns."""
    picture = pictures[int(torch.randint(len(pictures), (), generator=rng))]
    top, left = (int(torch.randint(s - CROP + 1, (), generator=rng)) for s in picture.shape[1:])
    turns, flip = (int(torch.randint(n, (), generator=rng)) for n in (4, 2))
    square = picture[:, top : top + CROP, left : left + CROP].rot90(turns, (1, 2))
    return square.flip(2) if flip else square


@cache
def trial() -> tuple[Tensor, Tensor]:
    """The middles of pictures that nobody trains on, clean and spoiled; the same for all seeds."""
    rng = torch.Generator().manual_seed(2**20)
    pictures, clean, spoiled = test_pictures(), [], []
    for name in HELD_OUT:
        top, left = ((side - SCORED) // 2 for side in pictures[name].shape[1:])
        middle = pictures[name][:, top : top + SCORED, left : left + SCORED]
        clean += [middle] * len(WEATHER)
        spoiled += [degrade(middle, kind, rng) for kind in WEATHER]
    return torch.stack(clean), torch.stack(spoiled)


@cache
def restored(arm: Arm, seed: int, steps: int) -> float:
    """Train one network and answer its mean PSNR in dB on the trial."""
    model = build(arm.name, seed).train()
    optimiser = torch.optim.AdamW(model.parameters(), arm.rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, arm.rate, steps)
    with torch.random.fork_rng(devices=[]):  # the router's dropout
        torch.manual_seed(seed)
        for clean, spoiled in batches(seed, steps):
            optimiser.zero_grad()
            F.smooth_l1_loss(model(spoiled), clean).backward()
            optimiser.step()
            schedule.step()
    clean, spoiled = trial()
    pairs = zip(restore(model, spoiled), clean, strict=True)
    return sum(measured(got, wanted)["psnr"] for got, wanted in pairs) / len(clean)


def _quality(arm: Arm, steps: int, seed: int, *, ablate: bool = False) -> Measurement:
    method = restored(NONE if ablate else arm, seed, steps)
    return Measurement(seed, method, restored(PLAIN, seed, steps))


CHECKS: dict[str, Check] = {
    "parameters": parameters,
    "time": partial(_time, False),
    "time-chosen": partial(_time, True),
    "quality": partial(_quality, OURS, STEPS),
    "equal-size": partial(_quality, EQUAL, STEPS),
}
LONG: dict[str, Check] = {
    "quality": partial(_quality, OURS, LONGER),
    "equal-size": partial(_quality, EQUAL, LONGER),
}
