"""Noise and rain on a photograph, and what a small HOGformer makes of them.

Not the networks of the checks: those see six degradations in a hundred steps and restore nothing
yet. This one has twice the channels and sees noise and rain alone for 900 steps, about ten minutes
on one core.
"""

from functools import cache

import torch
from torch import Tensor

from workingpapers.kit.data.photographs import photographs
from workingpapers.kit.degradations import Kind, degrade
from workingpapers.kit.strip import restoring
from workingpapers.papers.hogformer.check import crops
from workingpapers.papers.hogformer.losses import HOGformerLoss
from workingpapers.papers.hogformer.network import HOGformer
from workingpapers.papers.hogformer.restoring import restore

KINDS: tuple[Kind, ...] = ("noise", "rain")
DIM, STEPS, BATCH, RATE = 16, 900, 2, 2e-3


@cache
def trained() -> HOGformer:
    """The network, trained on crops of the wallpapers; the pictures shown are not among them."""
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):  # leaves the caller's generator as it was
        torch.manual_seed(0)
        model = HOGformer(DIM, (1, 1, 1, 1), 1, (2, 2, 4, 4), ffn_expansion_factor=2)
    loss, pictures = HOGformerLoss("I"), photographs()
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-4)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for step in range(STEPS):
        drawn = torch.randint(len(pictures), (BATCH,), generator=rng).tolist()
        clean = torch.cat([crops(pictures[i], 1, rng) for i in drawn])
        spoiled = degrade(clean, KINDS[step % len(KINDS)], rng)
        optimiser.zero_grad()
        loss(model(spoiled), clean).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)  # the official value
        optimiser.step()
        decay.step()
    return model


def restored(image: Tensor) -> Tensor:
    """What the network makes of an image."""
    return restore(trained(), image)


WAIT = "training, about ten minutes"
SAID = f"The network has {DIM} channels and was trained for {STEPS} steps on {' and '.join(KINDS)}."
PICTURES = {
    "noise": restoring("noise", "coffee", (72, 172), restored, SAID, WAIT),
    "rain": restoring("rain", "astronaut", (0, 96), restored, SAID, WAIT),
}
