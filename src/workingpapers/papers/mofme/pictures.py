"""Snow and haze on photographs, and what a small MoFME makes of them.

The network of the check "quality", which sees rain, snow and haze, trained fifteen times as long:
about three minutes on one core.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from workingpapers.kit.data.photographs import photographs
from workingpapers.kit.degradations import degrade
from workingpapers.kit.strip import restoring
from workingpapers.papers.mofme.check import BATCH, LONGER, OURS, WEATHER, build, crop
from workingpapers.papers.mofme.network import Restorer
from workingpapers.papers.mofme.restoring import restore


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


def restored(image: Tensor) -> Tensor:
    """What the network makes of an image."""
    return restore(trained(), image)


WAIT = "training, about three minutes"
SAID = (
    "The network has 8 experts and 64 numbers a token, and was trained for "
    f"{LONGER} steps on {', '.join(WEATHER[:-1])} and {WEATHER[-1]}."
)
PICTURES = {
    "snow": restoring("snow", "coffee", (72, 172), restored, SAID, WAIT),
    "haze": restoring("haze", "astronaut", (0, 96), restored, SAID, WAIT),
}
