"""Does the model grow on a shift alone, forget little and end more accurate?

One stream of five tasks (see stream.py) is learnt in several ways that share backbone, first task,
data, epochs and optimiser: SEMA (threshold 2); no expansion; one adapter for each task (threshold
0); and one adapter in every block that is trained on throughout. Seeds draw tasks, modules and
order. All are learnt without rehearsal.

"growth" counts adapters; its ablated twin does not look for a shift and grows every time.
"detection" counts right decisions at the three tasks that were built to be shifted or not, at two
blocks, against the better of growing always and never; the twin tosses a coin that comes up as
often as the stream shifts. "forgetting" and "final" compare with the one adapter; the twin's old
modules are not frozen, which is one adapter again, in another order. "expansion" compares with no
expansion; the twin is no expansion again, in another order, and shows what chance does.

Expect growth, detection and forgetting to show, "expansion" to be undecided and "final" to be
undecided or reversed. About two minutes on one core.
"""

import copy
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean

import torch

from workingpapers.core.types import Check, Measurement
from workingpapers.papers.sema.learner import SEMA, masked_loss
from workingpapers.papers.sema.method import SEMAConfig
from workingpapers.papers.sema.stream import DEPTH, SHIFTED, Task, tasks, transformer

GROWING = (DEPTH - 2, DEPTH - 1)
CONFIG = SEMAConfig(bottleneck=8, rd_dim=12, threshold=2, expand_layers=GROWING)
RATE, EPOCHS = 0.02, 5
THRESHOLDS = {"sema": 2.0, "none": math.inf, "none again": math.inf, "always": 0.0}


@dataclass(frozen=True)
class Learnt:
    """What one way of learning the stream came to."""

    final: float  # percent over all classes
    own: float  # percent among each task's classes, at the end, mean of the tasks
    forgotten: float  # points among a task's own classes, mean of all tasks but the last
    adapters: float  # in a block that may grow
    grew: dict[tuple[int, int], bool]  # by task and block


@lru_cache(maxsize=2)
def first(seed: int) -> SEMA:
    """All ways begin with the same first task."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SEMA(copy.deepcopy(transformer()), 30, CONFIG)
        rng = torch.Generator().manual_seed(seed)
        task = tasks(seed)[0]
        model.fit_task(task.loader(rng), task.classes, func_epochs=EPOCHS, lr=RATE, generator=rng)
    return model


@torch.no_grad()
def own_accuracy(model: SEMA, task: Task) -> float:
    """Percent right among the task's own classes."""
    x, y = task.test
    scores = model.logits(x)[:, list(task.classes)]
    return 100 * (scores.argmax(dim=1) + task.classes[0] == y).float().mean().item()


@lru_cache(maxsize=64)
def learnt(seed: int, way: str) -> Learnt:
    model = copy.deepcopy(first(seed))
    rng = torch.Generator().manual_seed(seed + (1000 if way.endswith("again") else 500))
    stream = tasks(seed)
    after = [own_accuracy(model, stream[0])]
    grew: dict[tuple[int, int], bool] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number, task in enumerate(stream[1:], start=1):
            if way in THRESHOLDS:
                model.config = replace(CONFIG, threshold=THRESHOLDS[way])
                report = model.fit_task(
                    task.loader(rng),
                    task.classes,
                    func_epochs=EPOCHS,
                    lr=RATE,
                    cache=True,
                    generator=rng,
                )
                grown = {layer for layer, _ in report.expanded}
                grew |= {(number, layer): layer in grown for layer in GROWING}
            else:
                train_on(model, task, rng)
            after.append(own_accuracy(model, task))
    own = [own_accuracy(model, task) for task in stream]
    right = torch.cat([model.predict(task.test[0]) == task.test[1] for task in stream])
    lost = fmean(a - b for a, b in zip(after[:-1], own[:-1], strict=True))
    adapters = fmean(model.num_adapters[layer] for layer in GROWING)
    return Learnt(100 * right.float().mean().item(), fmean(own), lost, adapters, grew)


def train_on(model: SEMA, task: Task, rng: torch.Generator) -> None:
    """Train the one adapter of every block and the head, as the first task does."""
    known = len(model.class_order)
    model.class_order = torch.cat([model.class_order, torch.tensor(task.classes)])
    trained = [p for layer in model.num_adapters for p in model.pool(layer).adapters.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimiser = torch.optim.SGD(
        [*trained, *model.fc.parameters()], RATE, momentum=0.9, weight_decay=5e-4
    )
    for epoch in range(EPOCHS):
        optimiser.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
        for x, y in task.loader(rng):
            optimiser.zero_grad()
            masked_loss(model.logits(x), y, known).backward()
            optimiser.step()


def growth(seed: int, *, ablate: bool = False) -> Measurement:
    way = "always" if ablate else "sema"
    return Measurement(seed, learnt(seed, way).adapters, learnt(seed, "always").adapters)


def detection(seed: int, *, ablate: bool = False) -> Measurement:
    truth = {(task, layer): SHIFTED[task] for task in SHIFTED for layer in GROWING}
    share = fmean(truth.values())
    decided = learnt(seed, "sema").grew
    if ablate:
        coins = torch.rand(len(truth), generator=torch.Generator().manual_seed(seed)) < share
        decided = dict(zip(truth, coins.tolist(), strict=True))
    right = fmean(decided[place] == shifted for place, shifted in truth.items())
    return Measurement(seed, 100 * right, 100 * max(share, 1 - share))


def forgetting(seed: int, *, ablate: bool = False) -> Measurement:
    way = "one again" if ablate else "sema"
    return Measurement(seed, learnt(seed, way).forgotten, learnt(seed, "one").forgotten)


def final(seed: int, *, ablate: bool = False) -> Measurement:
    way = "one again" if ablate else "sema"
    return Measurement(seed, learnt(seed, way).final, learnt(seed, "one").final)


def expansion(seed: int, *, ablate: bool = False) -> Measurement:
    way = "none again" if ablate else "sema"
    return Measurement(seed, learnt(seed, way).final, learnt(seed, "none").final)


CHECKS: dict[str, Check] = {
    "growth": growth,
    "detection": detection,
    "forgetting": forgetting,
    "final": final,
    "expansion": expansion,
}
