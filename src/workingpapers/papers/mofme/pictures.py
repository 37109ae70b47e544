"""Snow and haze on photographs, and what a small MoFME makes of them.

The network of the check "quality", which sees rain, snow and haze, trained fifteen times as long:
about three minutes on one core.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch.nn import functional as F

from workingpapers.kit.data.photographs import photographs, test_pictures
from workingpapers.kit.degradations import Kind, degrade
from workingpapers.kit.strip import Strip
from workingpapers.papers.mofme.check import BATCH, LONGER, OURS, WEATHER, build, crop
from workingpapers.papers.mofme.network import Restorer
from workingpapers.papers.mofme.restoring import quality, restore

SIDE = 256


@cache
def trained() -> Restorer:
    """The network, trained on crops of the wallpapers; the pictures shown are not among them."""
    model, pictures = build(OURS.name, 0).train(), photographs()
    rng = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), OURS.rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, OURS.rate, LONGER)
    with torch.random.fork_rng(devices=[]):  # the router's dropout
        torch.manual_seed(0)
        for _ in range(LONGER):
            clean = torch.stack([crop(pictures, rng) for _ in range(BATCH)])
            parts = zip(clean.chunk(len(WEATHER)), WEATHER, strict=True)
            spoiled = torch.cat([degrade(x, kind, rng) for x, kind in parts])
            optimiser.zero_grad()
            F.smooth_l1_loss(model(2 * spoiled - 1), clean).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def restoring(
    kind: Kind, name: str, top: int, left: int
) -> Callable[[Callable[[str], None]], Strip]:
    """Make a recipe: a square of a held-out picture, degraded and restored."""

    def recipe(report: Callable[[str], None]) -> Strip:
        clean = test_pictures()[name][:, top : top + SIDE, left : left + SIDE].contiguous()
        spoiled = degrade(clean, kind, torch.Generator().manual_seed(2**20))
        report("training, about three minutes")
        restored = restore(trained(), spoiled)
        before, after = (quality(image, clean) for image in (spoiled, restored))
        caption = (
            f"{kind.capitalize()} on a picture that was not trained on: "
            f"{before['psnr']:.1f} dB and SSIM {before['ssim']:.2f} before, {after['psnr']:.1f} dB "
            f"and {after['ssim']:.2f} after. The network has 8 experts and 64 numbers a token, and "
            f"was trained for {LONGER} steps on {', '.join(WEATHER[:-1])} and {WEATHER[-1]}."
        )
        return Strip({kind: spoiled, "restored": restored, "original": clean}, caption)

    return recipe


PICTURES = {
    "snow": restoring("snow", "coffee", 72, 172),
    "haze": restoring("haze", "astronaut", 0, 96),
}
