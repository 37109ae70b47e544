"""Learns task after task on a frozen transformer of timm or transformers, and grows on a shift.

Blocks are hooked, not patched or exchanged: the backbone keeps its class and its keys, and
`SEMA.remove` gives it back as it was.
"""

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.sema import host
from workingpapers.papers.sema.method import AdapterPool, Descriptor, SEMAConfig

Loader = Iterable[Any]  # pairs of inputs and labels, iterated anew each epoch
_MODULE = re.compile(r"pools\.(\d+)\.adapters\.(\d+)\.")
_STATISTICS = (".errors", ".count")


@dataclass(frozen=True)
class TaskReport:
    """What a task did to the model.

    Attributes:
        expanded: blocks that grew, in this order, each with the mean z that made it.
        reused: whether the old adapters had to do.
        signal: the largest batch's mean z at each block that may grow, in the first scan.

    Source: [ours].
    """

    expanded: list[tuple[int, float]]
    reused: bool
    signal: dict[int, float]


@dataclass(frozen=True)
class _Stream:
    """A batch as it enters block `first`."""

    tokens: Tensor
    first: int


class _Streams:
    """A loader of cached streams, shuffled anew each epoch."""

    def __init__(
        self, parts: list[tuple[Tensor, Tensor]], first: int, generator: torch.Generator | None
    ) -> None:
        self.tokens, self.labels = (torch.cat(part) for part in zip(*parts, strict=True))
        self.size, self.first, self.generator = len(parts[0][1]), first, generator

    def __iter__(self) -> Iterator[tuple[_Stream, Tensor]]:
        order = torch.randperm(len(self.labels), generator=self.generator)
        for batch in order.split(self.size):
            yield _Stream(self.tokens[batch], self.first), self.labels[batch]


class _Stop(Exception):
    """Ends a forward pass where the rest is not needed."""

    def __init__(self, stream: Tensor) -> None:
        self.stream = stream


class _Site:
    """One block: adds what the pool answers. Its methods are the hooks, so copies get their own."""

    def __init__(self, pool: AdapterPool) -> None:
        self.pool = pool
        self.added: Tensor | None = None
        self.mask: Tensor | None = None
        self.seen: Callable[[Tensor], None] | None = None
        self.recording = False

    def tap(self, _module: nn.Module, given: tuple[Any, ...]) -> None:
        x, pool = given[0], self.pool
        if self.seen is not None:
            self.seen(x)
        if self.recording and any(rd.open for rd in pool.rds()):
            pool.record(pool.described(x.detach(), self.mask))
        self.added = pool(x, self.mask)

    def add(self, _module: nn.Module, _given: tuple[Any, ...], answer: Any) -> Any:
        added, self.added = self.added, None
        assert added is not None
        if isinstance(answer, tuple):
            return (answer[0] + added, *answer[1:])
        return answer + added


class SEMA(nn.Module):
    """Learn tasks one after another without forgetting, on a transformer that stays frozen.

    The backbone is hooked in place and frozen, and answers with its adapters from then on; `remove`
    takes them off. Labels may be any integers; `predict` gives them back.

    Args:
        backbone: timm's `VisionTransformer` and its kin, or a ViT, DeiT or BERT encoder of
            transformers (BERT adds the adapters before the last normalisation of a block).
        num_classes: how many classes there will be; left out, the head grows with every task.
        config: sizes, blocks and threshold.

    Shapes:
        x: what the backbone takes, or a mapping of its named arguments; the answer is
            `(batch, classes seen)`.

    Raises:
        TypeError: the backbone has no list of residual blocks of a known kind.
        ValueError: `expand_layers` names a block that is not there.
        RuntimeError: the backbone has adapters of a SEMA already.

    Source: [code, models/sema.py and backbone/vit_sema.py].
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int | None = None,
        config: SEMAConfig | None = None,
    ) -> None:
        super().__init__()
        config = SEMAConfig() if config is None else config
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes must be 1 or more, got {num_classes}")
        blocks = host.blocks(backbone)
        wrong = [layer for layer in config.expand_layers if layer >= len(blocks)]
        if wrong:
            raise ValueError(f"expand_layers must be 0 to {len(blocks) - 1}, got {wrong}")
        if getattr(backbone, "_sema", False):
            raise RuntimeError("backbone has adapters of a SEMA already: remove them first")
        self.config, self.num_classes = config, num_classes
        self.class_order: Tensor
        self.learnt: Tensor
        self.register_buffer("class_order", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("learnt", torch.zeros((), dtype=torch.int64))
        self.backbone = backbone
        like = next(backbone.parameters())
        dim = host.width(backbone)
        self.pools = nn.ModuleList(
            AdapterPool(dim, config, expandable=i in config.expand_layers).to(like)
            for i in range(len(blocks))
        )
        self.fc = _head(dim, num_classes or 0).to(like)
        self._trained = [p for p in backbone.parameters() if p.requires_grad]
        self._was_training = backbone.training
        backbone.requires_grad_(False).eval()
        self._sites: list[_Site] = []
        self._handles = []
        for block, pool in zip(blocks, self.pools, strict=True):
            assert isinstance(pool, AdapterPool)
            site, place = _Site(pool), host.place(block)
            self._handles.append(place.tap.register_forward_pre_hook(site.tap))
            self._handles.append(place.end.register_forward_hook(site.add))
            self._sites.append(site)
        object.__setattr__(backbone, "_sema", True)

    def remove(self) -> nn.Module:
        """Take the adapters off; the backbone answers, trains and is as before."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for parameter in self._trained:
            parameter.requires_grad_(True)
        object.__setattr__(self.backbone, "_sema", False)
        return self.backbone.train(self._was_training)

    def train(self, mode: bool = True) -> "SEMA":
        """Switch the recording of statistics; the backbone always stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def pool(self, layer: int) -> AdapterPool:
        """The modules of one block."""
        return self._sites[layer].pool

    # ---------------------------------------------------------------- answers

    def features(self, x: Any) -> Float[Tensor, "batch d"]:
        """What the head reads: for most backbones the class token after the last normalisation."""
        mask = x.get("attention_mask") if isinstance(x, Mapping) else None
        for site in self._sites:
            site.mask, site.recording = mask, self.training
        try:
            if isinstance(x, _Stream):
                return host.resume(self.backbone, x.tokens, x.first)
            return host.features(self.backbone, x)
        finally:
            for site in self._sites:
                site.mask, site.recording, site.added = None, False, None

    def logits(self, x: Any) -> Float[Tensor, "batch seen"]:
        """Scores of all classes seen so far, in the order of `classes`."""
        return self.fc(self.features(x))[:, : len(self.class_order)]

    def forward(self, x: Any) -> Float[Tensor, "batch seen"]:
        return self.logits(x)

    @torch.no_grad()
    def predict(self, x: Any) -> Tensor:
        """The label of the highest score."""
        if not len(self.class_order):
            raise RuntimeError("predict needs a task that was learnt: call fit_task first")
        training = self.training
        self.eval()
        best = self.logits(x).argmax(dim=1)
        self.train(training)
        return self.class_order[best]

    @property
    def classes(self) -> list[int]:
        """The labels seen so far, in the order of the head's rows."""
        return [int(label) for label in self.class_order.tolist()]

    @property
    def num_adapters(self) -> dict[int, int]:
        """How many adapters each block has."""
        return {i: len(site.pool.adapters) for i, site in enumerate(self._sites)}

    def added_parameters(self, deploy: bool = True) -> int:
        """How many parameters adapters and routers have; without `deploy`, descriptors as well."""
        left_out = ".descriptors." if deploy else "\0"
        return sum(p.numel() for n, p in self.pools.named_parameters() if left_out not in f".{n}")

    # ---------------------------------------------------------------- scanning

    @torch.no_grad()
    def scan(self, loader: Loader) -> dict[int, Float[Tensor, " k"]]:
        """Say how new data are to each descriptor: mean z by block. Changes nothing.

        Raises:
            RuntimeError: no task was learnt, or the model was loaded without statistics.
        """
        self._check_statistics()
        means = self._described(loader, self.config.expand_layers)
        return {layer: self.pool(layer).z(m).mean(dim=0) for layer, m in means.items()}

    @torch.no_grad()
    def usage(self, loader: Loader) -> dict[int, Float[Tensor, "n k"]]:
        """The router's weights for every sample, by block that may grow."""
        means = self._described(loader, self.config.expand_layers, router=True)
        return {layer: self.pool(layer).weights(m) for layer, m in means.items()}

    def record(self, loader: Loader) -> None:
        """Fill the statistics of descriptors that are open or have none, then close them.

        This is how to go on from an official checkpoint, which has no statistics: give it data of
        the task that the newest modules were trained on.
        """
        for rd in self._descriptors():
            rd.open = rd.open or int(rd.count) == 0
        training = self.training
        self.train()
        with torch.no_grad():
            for x, _ in _batches(loader):
                self.features(x)
        self.train(training)
        self._close()

    def _descriptors(self) -> Iterator[Descriptor]:
        for site in self._sites:
            yield from site.pool.rds()

    def _close(self) -> None:
        for rd in self._descriptors():
            rd.open = False

    def _check_statistics(self) -> None:
        if not int(self.learnt):
            raise RuntimeError("scan needs a task that was learnt: call fit_task first")
        if any(int(rd.count) == 0 for rd in self._descriptors()):
            raise RuntimeError(
                "scan needs statistics, which the loaded state did not have: call record with data "
                "of the tasks that were learnt"
            )

    def _described(
        self, loader: Loader, layers: Sequence[int], router: bool = False
    ) -> dict[int, Tensor]:
        """What descriptors (or routers) see of all samples, at several blocks in one pass."""
        found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        training = self.training
        self.eval()
        for layer in layers:
            site = self._sites[layer]

            def see(x: Tensor, site: _Site = site, into: list[Tensor] = found[layer]) -> None:
                of = site.pool.summary if router else site.pool.described
                into.append(of(x.detach(), site.mask))

            site.seen = see
        try:
            with torch.no_grad():
                for x, _ in _batches(loader):
                    self.features(x)
        finally:
            for layer in layers:
                self._sites[layer].seen = None
            self.train(training)
        return {layer: torch.cat(parts) for layer, parts in found.items()}

    # ---------------------------------------------------------------- learning

    def fit_task(
        self,
        loader: Loader,
        classes: Sequence[int],
        *,
        func_epochs: int = 5,
        rd_epochs: int = 20,
        lr: float = 0.005,
        rd_lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        scan_batch: int = 128,
        cache: bool = False,
        generator: torch.Generator | None = None,
    ) -> TaskReport:
        """Learn one task: scan it, grow where it is new, train what was added and the head.

        Args:
            loader: pairs of inputs and labels in batches, iterated anew each epoch.
            classes: the task's labels, none of which was seen before.
            func_epochs: epochs for adapters, router and head, or for the head alone.
            rd_epochs: epochs for the new descriptors. Their inputs are computed once.
            lr: rate of the first phase; both fall along a cosine.
            rd_lr: rate of the second phase.
            momentum: of SGD, in both phases.
            weight_decay: of SGD; it shrinks the old classes' rows of the head too, as officially.
            scan_batch: over how many samples z is averaged; one batch decides for all.
            cache: from the second task on, compute what enters the first block that may grow once,
                and keep it in memory. Not for loaders that augment.
            generator: draws the order of scanned, described and cached samples.

        Raises:
            ValueError: the loader is empty, a class was seen or there are more than `num_classes`,
                a label is not of the task, or the backbone's blocks need masks and `cache` is set.
        """
        if min(func_epochs, rd_epochs, scan_batch) < 1:
            raise ValueError(
                "func_epochs, rd_epochs and scan_batch must be 1 or more, got "
                f"{func_epochs}, {rd_epochs} and {scan_batch}"
            )
        if cache and not host.resumable(self.backbone):
            raise ValueError("cache needs a backbone whose blocks take the tokens alone")
        known = self.class_order
        self._add_classes(classes)
        fit = _Fit(self, len(known), momentum, weight_decay, generator)
        self.train()
        try:
            if int(self.learnt) == 0:
                fit.func(loader, None, func_epochs, lr)
                fit.descriptors(loader, self.config.expand_layers, rd_epochs, rd_lr)
                report = TaskReport([], False, {})
            else:
                source = self._cached(loader, generator) if cache else loader
                report = self._grow(fit, source, scan_batch, (func_epochs, lr), (rd_epochs, rd_lr))
        except (ValueError, RuntimeError):
            self.class_order = known
            raise
        finally:
            self.eval()
        self.pools.requires_grad_(False)
        self._close()
        self.learnt += 1
        return report

    def _add_classes(self, classes: Sequence[int]) -> None:
        if not len(classes) or len(set(classes)) != len(classes):
            raise ValueError(f"classes must be distinct labels, got {list(classes)}")
        if seen := sorted(set(classes) & set(self.classes)):
            raise ValueError(f"classes must be new to the model, got {seen} again")
        total = len(self.class_order) + len(classes)
        if self.num_classes is not None and total > self.num_classes:
            raise ValueError(f"classes: {total} are more than num_classes {self.num_classes}")
        if self.fc.out_features < total:
            self._resize_head(total)
        new = torch.tensor(list(classes), device=self.class_order.device)
        self.class_order = torch.cat([self.class_order, new])

    def _resize_head(self, rows: int) -> None:
        old, new = self.fc, _head(self.fc.in_features, rows).to(self.fc.weight)
        keep = min(rows, old.out_features)
        with torch.no_grad():
            new.weight[:keep], new.bias[:keep] = old.weight[:keep], old.bias[:keep]
        self.fc = new

    def _cached(self, loader: Loader, generator: torch.Generator | None) -> _Streams:
        first = min(self.config.expand_layers, default=len(self.pools) - 1)
        block, parts = host.blocks(self.backbone)[first], []
        handle = block.register_forward_pre_hook(_stop)
        try:
            with torch.no_grad():
                for x, y in _batches(loader):
                    try:
                        self.features(x)
                    except _Stop as stop:
                        parts.append((stop.stream, y))
        finally:
            handle.remove()
        return _Streams(parts, first, generator)

    def _grow(
        self,
        fit: "_Fit",
        loader: Loader,
        scan_batch: int,
        func: tuple[int, float],
        rd: tuple[int, float],
    ) -> TaskReport:
        """Scan, and expand where it fires, until a whole scan passes; each block once at most."""
        pending = list(self.config.expand_layers)
        grown: list[tuple[int, float]] = []
        signal: dict[int, float] = {}
        means: dict[int, Tensor] = {}
        start = 0
        if any(int(rd.count) == 0 for rd in self._descriptors()):
            pending = []  # without statistics nothing can be new
        while pending:
            means = means or self._described(loader, pending)
            if start == 0:
                samples = len(means[pending[0]])
                order = torch.randperm(samples, generator=fit.generator)
            z = {i: _signal(self.pool(i), means[i][order], scan_batch) for i in pending}
            signal = signal or {layer: max(values) for layer, values in z.items()}
            hits = [
                (batch, layer)
                for layer, values in z.items()
                for batch, value in enumerate(values)
                if batch >= start and value > self.config.threshold
            ]
            if not hits and start == 0:
                break
            if not hits:
                start = 0
                continue
            batch, layer = min(hits)  # batch by batch, and in each from shallow to deep [code]
            grown.append((layer, z[layer][batch]))
            pool = self.pool(layer)
            pool.expand()
            fit.func(loader, layer, *func)
            fit.descriptors(loader, [layer], *rd)
            pool.requires_grad_(False)
            pool.fold()
            pending.remove(layer)
            means, start = {}, batch + 1
        if not grown:
            fit.func(loader, None, *func)
        return TaskReport(grown, not grown, signal)

    # ---------------------------------------------------------------- states

    def open_newest(self, layer: int) -> None:
        """Let the newest module of a block go on training and recording, as amid an expansion."""
        pool = self.pool(layer)
        pool.unfold()
        pool.adapters[-1].requires_grad_(True)
        newest = pool.descriptors[-1]
        assert isinstance(newest, Descriptor)
        newest.requires_grad_(True)
        newest.open = True

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Take over a state, as many modules and classes as it has, with or without the backbone.

        A state without statistics loads with a warning: it never grows until `record` was called.
        """
        state = dict(state_dict)
        counts = dict.fromkeys(range(len(self._sites)), 1)
        for key in state:
            if match := _MODULE.match(key):
                layer, number = int(match[1]), int(match[2]) + 1
                if layer not in counts:
                    raise ValueError(
                        f"state_dict has adapters at block {layer}, the backbone only "
                        f"{len(counts)} blocks"
                    )
                counts[layer] = max(counts[layer], number)
        for layer, count in counts.items():
            self.pool(layer).resize(count)
        if "fc.weight" in state:
            self._resize_head(len(state["fc.weight"]))
        if "class_order" in state:
            self.class_order = torch.zeros_like(state["class_order"])
        own = self.state_dict()
        if not any(key.startswith("backbone.") for key in state):
            state |= {key: own[key] for key in own if key.startswith("backbone.")}
        lost = [key for key in own if key.endswith(_STATISTICS) and key not in state]
        if lost:
            warnings.warn(
                f"state_dict lacks the statistics of descriptors, {lost[0]} for one: the model "
                "cannot grow until `record` was called",
                stacklevel=2,
            )
            state |= {key: torch.zeros_like(own[key]) for key in lost}
        done = super().load_state_dict(state, strict, assign)
        self.pools.requires_grad_(False)
        self._close()
        return done


class _Fit:
    """The two phases of learning what was added."""

    def __init__(
        self,
        model: SEMA,
        old: int,
        momentum: float,
        weight_decay: float,
        generator: torch.Generator | None,
    ) -> None:
        self.model, self.old, self.generator = model, old, generator
        self.options: dict[str, Any] = {"momentum": momentum, "weight_decay": weight_decay}
        self.batch = 0

    def func(self, loader: Loader, layer: int | None, epochs: int, lr: float) -> None:
        """Train the head, with the newest module of `layer`, or on the first task with all."""
        model = self.model
        trained = list(model.fc.parameters())
        for site in model._sites:
            pool = site.pool
            if int(model.learnt) == 0:
                trained += [*pool.adapters.parameters(), *pool.router.parameters()]
            elif layer is not None and pool is model.pool(layer):
                assert pool.new_router is not None
                trained += [*pool.adapters[-1].parameters(), *pool.new_router.parameters()]
        optimiser = torch.optim.SGD(trained, lr, **self.options)
        for epoch in range(epochs):
            optimiser.param_groups[0]["lr"] = lr * _cosine(epoch, epochs)
            for x, y in _batches(loader):
                self.batch = max(self.batch, len(y))
                optimiser.zero_grad()
                loss = masked_loss(model.logits(x), self._rows(y), self.old)
                loss.backward()
                optimiser.step()

    def _rows(self, y: Tensor) -> Tensor:
        new = self.model.class_order[self.old :]
        match = y.unsqueeze(1) == new.to(y.device)
        if not match.any(dim=1).all():
            wrong = sorted(set(y[~match.any(dim=1)].tolist()))
            raise ValueError(f"loader has labels {wrong}, expected classes {new.tolist()}")
        return self.old + match.int().argmax(dim=1)

    def descriptors(self, loader: Loader, layers: Sequence[int], epochs: int, lr: float) -> None:
        """Train the newest descriptors; what they describe is frozen by now, so computed once."""
        model = self.model
        newest = {layer: model.pool(layer).descriptors[-1] for layer in layers}
        if not newest:
            return
        is_open = [i for i, s in enumerate(model._sites) if any(d.open for d in s.pool.rds())]
        means = model._described(loader, is_open)
        trained = [p for descriptor in newest.values() for p in descriptor.parameters()]
        optimiser = torch.optim.SGD(trained, lr, **self.options)
        samples = len(means[is_open[0]])
        for epoch in range(epochs):
            optimiser.param_groups[0]["lr"] = lr * _cosine(epoch, epochs)
            for batch in torch.randperm(samples, generator=self.generator).split(self.batch):
                optimiser.zero_grad()
                loss = torch.zeros((), device=means[is_open[0]].device)
                for layer in is_open:
                    m = means[layer][batch]
                    model.pool(layer).record(m)
                    if layer in newest:
                        loss = loss + newest[layer](m).mean()
                loss.backward()
                optimiser.step()
        if not all(bool(p.isfinite().all()) for p in trained):
            raise RuntimeError(f"the descriptors diverged: rd_lr must be less than {lr}")


def masked_loss(logits: Float[Tensor, "batch seen"], rows: Tensor, old: int) -> Float[Tensor, ""]:
    """Cross-entropy over the classes seen, the first `old` of which are masked."""
    masked = torch.arange(logits.shape[1], device=logits.device) < old
    return F.cross_entropy(logits.masked_fill(masked, -math.inf), rows)


def _stop(_module: nn.Module, given: tuple[Any, ...]) -> None:
    raise _Stop(given[0])


def _signal(pool: AdapterPool, m: Tensor, size: int) -> list[float]:
    """(6): for each scanned batch, the mean z of the descriptor that knows it best."""
    with torch.no_grad():
        return [float(z.mean(dim=0).min()) for z in pool.z(m).split(size)]


def _head(dim: int, rows: int) -> nn.Linear:
    head = nn.Linear(dim, max(rows, 1))
    nn.init.kaiming_uniform_(head.weight, a=math.sqrt(5))
    nn.init.zeros_(head.bias)
    return head


def _cosine(epoch: int, epochs: int) -> float:
    return (1 + math.cos(math.pi * epoch / epochs)) / 2


def _batches(loader: Loader) -> Iterator[tuple[Any, Tensor]]:
    empty = True
    for x, y in loader:
        empty = False
        yield x, y
    if empty:
        raise ValueError("loader must have samples, got an empty one")
