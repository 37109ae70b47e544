"""What training without backpropagation costs: time, memory and energy, each beside its twin.

All on noise of Fashion-MNIST's shape, batches of 128, the paper's widths where they fit a minute.
Expect activations to grow with depth under backpropagation and not under Mono-Forward, and
predictors on random blocks to cost a small part of training the blocks, since features are computed
once. Whether energy was counted or estimated stands in the table.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from workingpapers.kit.local_learning import Backprop, LocalTrainer, PhasedTrainer, saved_bytes
from workingpapers.kit.timing import interleaved, threads
from workingpapers.papers.backprop_free.backprop import AdamW
from workingpapers.papers.backprop_free.cascaded_forward import CascadedForwardNet
from workingpapers.papers.backprop_free.check import Crossing, memory
from workingpapers.papers.backprop_free.energy import measure_energy
from workingpapers.papers.backprop_free.feedback import dfa_trainer
from workingpapers.papers.backprop_free.forward_forward import ForwardForwardNet, embed_labels
from workingpapers.papers.backprop_free.method import MonoForwardNet
from workingpapers.papers.backprop_free.predictors import sparsemax_threshold

Row = dict[str, str | float]
BATCH, BATCHES, CLASSES, DIM = 128, 8, 10, 784
ADAM = AdamW(1e-3)


def _data(dim: int = DIM) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    n = BATCH * BATCHES
    x = torch.randn(n, dim, generator=generator)
    return x, torch.randint(CLASSES, (n,), generator=generator)


def _epoch(trainer: LocalTrainer[Tensor], x: Tensor, y: Tensor) -> Callable[[], None]:
    """One pass over the data in every phase, inputs carried on between phases."""

    def run() -> None:
        carried = x
        for phase in range(trainer.phases if isinstance(trainer, PhasedTrainer) else 1):
            if isinstance(trainer, PhasedTrainer):
                trainer.begin(phase)
                carried = trainer.advance(carried)
            for xb, yb in zip(carried.split(BATCH), y.split(BATCH), strict=True):
                trainer.fit_step(xb, yb)

    return run


def _pairs() -> dict[str, dict[str, tuple[LocalTrainer[Tensor], Tensor]]]:
    """Network -> method -> trainer and inputs; backpropagation is one of the methods."""
    x, _ = _data()
    images = x.reshape(-1, 1, 28, 28)
    mono = MonoForwardNet(DIM, (1000, 1000), CLASSES)
    deep = MonoForwardNet(DIM, (1000, 1000, 1000, 1000), CLASSES)
    conv = CascadedForwardNet(1, 28, (16, 32, 64), CLASSES)
    return {
        "perceptron 2 x 1000": {
            "backpropagation": (Backprop(mono.as_backprop(), ADAM), x),
            "Mono-Forward, sequential": (mono.trainer(1e-3), x),
            "Mono-Forward, simultaneous": (mono.trainer(1e-3, schedule="simultaneous"), x),
        },
        "perceptron 4 x 1000": {
            "backpropagation": (Backprop(deep.as_backprop(), ADAM), x),
            "Mono-Forward, sequential": (deep.trainer(1e-3), x),
            "Forward-Forward": (ForwardForwardNet(DIM, deep.hidden, CLASSES).trainer(1e-3), x),
        },
        "convolutions 16, 32, 64": {
            "backpropagation": (Backprop(conv.as_backprop(), ADAM), images),
            "Cascaded-Forward, random": (conv.trainer(1e-3), images),
            "Cascaded-Forward, feedback alignment": (dfa_trainer(conv, 1e-3), images),
        },
    }


def time(report: Callable[[str], None]) -> list[Row]:
    """Seconds of one epoch of 1,024 pictures, all phases together, against backpropagation."""
    rows: list[Row] = []
    _, y = _data()
    for network, methods in _pairs().items():
        report(network)
        runs: dict[str, Callable[[], object]] = {
            name: _epoch(trainer, x, y) for name, (trainer, x) in methods.items()
        }
        taken = interleaved(runs, repeats=7)
        for name, seconds in taken.items():
            ratio = seconds / taken["backpropagation"]
            rows.append(
                {
                    "network": network,
                    "method": name,
                    "ms an epoch (median)": round(1e3 * seconds, 1),
                    "share of backpropagation": round(ratio, 2),
                }
            )
    return rows


def depth(report: Callable[[str], None]) -> list[Row]:
    """MiB that training holds beside the batch, by depth; activations are what autograd keeps."""
    rows: list[Row] = []
    x, y = _data(1000)
    x, y = x[:BATCH], y[:BATCH]
    for layers in (2, 4, 8, 16):
        report(f"{layers} layers of 1000")
        net = MonoForwardNet(1000, (1000,) * layers, CLASSES)
        trainers: dict[str, LocalTrainer[Tensor]] = {
            "backpropagation": Backprop(net.as_backprop(), ADAM),
            "Mono-Forward, sequential": net.trainer(1e-3),
            "Mono-Forward, simultaneous": net.trainer(1e-3, schedule="simultaneous"),
            "Mono-Forward, nothing detached": Crossing(net, ADAM),
        }
        for name, trainer in trainers.items():
            with saved_bytes(trainer.network, x) as saved:
                trainer.fit_step(x, y)
            rows.append(
                {
                    "layers": layers,
                    "method": name,
                    "activations, MiB": round(saved.peak / 2**20, 2),
                    "all of training, MiB": round(memory(trainer, x, y), 1),
                }
            )
    return rows


def energy(report: Callable[[str], None]) -> list[Row]:
    """Joules of 20 epochs of 1,024 pictures, and whether they were counted or estimated."""
    rows: list[Row] = []
    _, y = _data()
    for network, methods in _pairs().items():
        for name, (trainer, x) in methods.items():
            report(f"{network}: {name}")
            run = _epoch(trainer, x, y)
            run()
            with measure_energy() as spent:
                for _ in range(20):
                    run()
            rows.append(
                {
                    "network": network,
                    "method": name,
                    "joules": round(spent.joules, 2),
                    "source": spent.source,
                }
            )
    return rows


def formulations(report: Callable[[str], None]) -> list[Row]:
    """The released code's way of computing a thing against ours, which gives the same numbers."""
    x, y = _data()
    report("Mono-Forward, last of 3 layers: lower layers run for every batch, or once")
    net = MonoForwardNet(DIM, (1000, 1000, 1000), CLASSES)
    trainer = net.trainer(1e-3)
    trainer.begin(2)

    def recomputed() -> None:
        for xb, yb in zip(x.split(BATCH), y.split(BATCH), strict=True):
            with torch.no_grad():
                h = net.activations(xb)[2]
            trainer.fit_step(h, yb)

    with torch.no_grad():
        kept = net.activations(x)[2]

    def cached() -> None:
        for hb, yb in zip(kept.split(BATCH), y.split(BATCH), strict=True):
            trainer.fit_step(hb, yb)

    report("Forward-Forward: a whole pass for every label, or the rest of the picture shared")
    contrast = ForwardForwardNet(DIM, (1000, 1000), CLASSES)

    @torch.no_grad()
    def label_by_label() -> None:
        for k in range(CLASSES):
            rows = embed_labels(x, torch.full((len(x),), k), CLASSES)
            contrast.activations(rows)

    report("sparsemax: a loop over the classes, or one cumulative sum")
    z = torch.randn(10_000, CLASSES, generator=torch.Generator().manual_seed(0))
    report("feedback alignment: every block run twice, or once")
    conv = CascadedForwardNet(1, 28, (16, 32, 64), CLASSES)
    images, labels = x[:BATCH].reshape(-1, 1, 28, 28), y[:BATCH]
    once = dfa_trainer(conv, 1e-3)

    def twice() -> None:
        """A full backward pass, then every block again for its own gradient."""
        conv.train()
        h, inputs = images, []
        for block in conv.blocks:
            inputs.append(h)
            h = block(h)
        logits = once.aux(h.flatten(1))
        F.cross_entropy(logits, labels).backward()
        e = logits.detach().softmax(dim=1) - F.one_hot(labels, CLASSES)
        for i, block in enumerate(list(conv.blocks)[:-1]):
            again = block(inputs[i].detach())
            block.zero_grad()
            again.backward((e @ once.feedback[i]).view_as(again))

    def shared() -> None:
        contrast(x)

    def one_sum() -> None:
        sparsemax_threshold(z)

    def loop() -> None:
        _looped_threshold(z)

    def single() -> None:
        once.gradients(images, labels)

    cases: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "Mono-Forward, an epoch of layer 3": (recomputed, cached),
        "Forward-Forward, 1,024 predictions": (label_by_label, shared),
        "sparsemax of 10,000 rows": (loop, one_sum),
        "feedback alignment, a batch": (twice, single),
    }
    rows: list[Row] = []
    for what, (theirs, ours) in cases.items():
        with threads(1):
            taken = interleaved({"theirs": theirs, "ours": ours}, repeats=7)
        rows.append(
            {
                "what": what,
                "released code's way, ms (median)": round(1e3 * taken["theirs"], 2),
                "ours, ms (median)": round(1e3 * taken["ours"], 2),
                "times faster": round(taken["theirs"] / taken["ours"], 2),
            }
        )
    return rows


def _looped_threshold(z: Tensor) -> Tensor:
    """Threshold by a loop over the classes."""
    down = z.sort(dim=1, descending=True).values
    total, k, kept = torch.zeros(len(z)), torch.ones(len(z)), torch.zeros(len(z))
    for i in range(z.shape[1]):
        total = total + down[:, i]
        inside = 1 + (i + 1) * down[:, i] > total
        k = torch.where(inside, torch.full_like(k, i + 1), k)
        kept = torch.where(inside, total, kept)
    return (kept - 1) / k


BENCHES = {"time": time, "depth": depth, "energy": energy, "formulations": formulations}
