"""FASet trains a set network in two stages, so that it stays good at any number of elements.

Source: arXiv:1808.00758v2, Algorithm 1 [paper]; Yang7879/AttSets@cfef26a, main_AttSets.py [code];
what is marked [ours] is in neither. The parameters fall into two groups, base (encoder and
decoder) and att (the attention layer). For M sets of N elements and a loss l:

    (6)  stage 1:  1/(MN) sum_m sum_n l(net({x_mn}), v_m)           step base alone
    (7)  stage 2:  1/M sum_m l(net({x_m1, ..., x_mN}), v_m)         step att alone

A set of one has scores of 1 whatever att is, so att cannot learn in (6); in (7) base is frozen.
Trained jointly, a decoder only ever sees features as att mixes them at the training N, and is
tuned to that mixture; after (6) every single feature can be decoded by itself, and att only has
to choose [paper].

Two schedules are in the code: sequential, as released, has (6) in epochs 0 to 30 and (7) in epochs
31 to 49; alternating has both on every batch. Two Adam optimisers of rate 1e-4 [code].
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workingpapers.papers.attsets.method import AttSets, AttSetsConv2d, AttSetsConv3d
from workingpapers.papers.attsets.sets import encode_each, find_absent

Batch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]  # x, y and perhaps a mask
Loss = Callable[[Tensor, Tensor], Tensor]


class SetNetwork(nn.Module):
    """Encode every element of a set alike, fuse the features, decode the fused vector.

    The form that FASet is made for; any encoder, pool and decoder that fit together will do.

    Args:
        encoder: maps elements `(m, *element)` to features `(m, dim)`.
        pool: maps `(batch, n, dim)` and a mask to `(batch, dim)`, as AttSets does.
        decoder: maps `(batch, dim)` to whatever is wanted.

    Shapes:
        x: `(batch, n, *element)`; mask: `(batch, n)`; output: the decoder's.

    Source: [paper, figure of the framework].

    >>> net = SetNetwork(nn.Linear(3, 8), AttSets(8), nn.Linear(8, 2))
    >>> net(torch.zeros(4, 6, 3)).shape
    torch.Size([4, 2])
    """

    def __init__(self, encoder: nn.Module, pool: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.pool, self.decoder = encoder, pool, decoder

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Float[Tensor, "batch n dim"]:
        """Features of every element; an absent one is not encoded, its features are zeros."""
        return encode_each(self.encoder, x, mask)

    def decode(self, fused: Float[Tensor, "batch dim"]) -> Tensor:
        """What the decoder makes of fused vectors."""
        return self.decoder(fused)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.decode(self.pool(self.encode(x, mask), mask))


class FASet:
    """Train a set network in two stages: everything but attention on sets of one, then attention.

    `stage1_loss` and `stage2_loss` answer losses whose gradients reach one group alone, for a
    training loop of your own; `step` and `fit` are the loop ready made.

    Args:
        model: maps sets `(batch, n, *element)`, and a mask `(batch, n)` where one is used, to
            predictions; any n. A `SetNetwork` or anything else of the form
            decoder(pool(encoder(x))).
        attention: "auto" for all AttSets modules of `model`, or a list of modules of it.
        loss_fn: maps predictions and targets to a scalar, a mean over sets.
        lr: learning rate of Adam for the base.
        attention_lr: learning rate of Adam for attention; as `lr` when left out.
        optimizers: two optimisers in place of Adam, for the base and for attention.

    Shapes:
        x: `(batch, n, *element)`; y: `(batch, *target)`; mask: `(batch, n)`, true where an
            element is present.

    Source: [paper, Algorithm 1], [code]; equations (6) and (7).
    """

    def __init__(
        self,
        model: nn.Module,
        attention: str | Sequence[nn.Module] = "auto",
        *,
        loss_fn: Loss | None = None,
        lr: float = 1e-4,
        attention_lr: float | None = None,
        optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer] | None = None,
    ) -> None:
        self.model, self.loss_fn = model, loss_fn
        self._attention = _find_attention(model, attention)
        if not self.base_parameters():
            raise ValueError(f"model {type(model).__name__} has no parameters besides attention")
        self._lrs = (lr, lr if attention_lr is None else attention_lr)
        self._optimizers = optimizers

    def attention_parameters(self) -> list[nn.Parameter]:
        """The parameters that stage 2 trains."""
        found = {id(p): p for module in self._attention for p in module.parameters()}
        return list(found.values())

    def base_parameters(self) -> list[nn.Parameter]:
        """The parameters that stage 1 trains: all of the model's but attention's."""
        held = {id(p) for p in self.attention_parameters()}
        return [p for p in self.model.parameters() if id(p) not in held]

    def _modules(self, *, attention: bool) -> list[nn.Module]:
        held = {part for module in self._attention for part in module.modules()}
        return [m for m in self.model.modules() if (m in held) == attention]

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        """What `step` steps, base first; Adam with torch's defaults, which are [code]'s."""
        if self._optimizers is None:
            groups = (self.base_parameters(), self.attention_parameters())
            base, attention = (
                torch.optim.Adam(group, lr) for group, lr in zip(groups, self._lrs, strict=True)
            )
            self._optimizers = base, attention
        return self._optimizers

    def stage1_loss(
        self, x: Tensor, y: Tensor, loss_fn: Loss | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The loss (6), every element a set of one; its gradient reaches the base alone."""
        _check_sets(x, y)
        absent = find_absent(mask, x.shape[:2])
        if absent is None:
            alone, target = x.flatten(0, 1), y.repeat_interleave(x.shape[1], dim=0)
        else:
            alone, target = x[~absent], y.repeat_interleave((~absent).sum(dim=1), dim=0)
        with _frozen(self.attention_parameters()), _still(self._modules(attention=True)):
            return self._loss(loss_fn)(self.model(alone.unsqueeze(1)), target)

    def stage2_loss(
        self,
        x: Tensor,
        y: Tensor,
        loss_fn: Loss | None = None,
        mask: Tensor | None = None,
        *,
        encoded: bool = False,
    ) -> Tensor:
        """The loss (7) on whole sets; its gradient reaches attention alone.

        With `encoded`, x is what `encode` answered, and the encoder does not run at all.
        """
        _check_sets(x, y)
        with _frozen(self.base_parameters()), _still(self._modules(attention=False)):
            if encoded:
                predicted = self._part("decode")(self._call(self._part("pool"), x, mask))
            else:
                predicted = self._call(self.model, x, mask)
            return self._loss(loss_fn)(predicted, y)

    @torch.no_grad()
    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features to keep for stage 2, where the encoder no longer changes.

        Needs a model with `encode`, `pool` and `decode`, such as a `SetNetwork`; dropout and
        batch statistics are off meanwhile.
        """
        encode, modes = self._part("encode"), [(m, m.training) for m in self.model.modules()]
        self.model.eval()
        try:
            return self._call(encode, x, mask)
        finally:
            for module, training in modes:
                module.training = training

    def step(self, batch: Batch, stage: int, *, encoded: bool = False) -> Tensor:
        """Take one optimiser step on `(x, y)` or `(x, y, mask)`; answers the loss before it."""
        if stage not in (1, 2):
            raise ValueError(f"stage must be 1 or 2, got {stage!r}")
        if len(batch) not in (2, 3):
            raise ValueError(f"batch must be (x, y) or (x, y, mask), got {len(batch)} entries")
        x, y, mask = batch if len(batch) == 3 else (*batch, None)
        optimizer = self.optimizers[stage - 1]
        optimizer.zero_grad()
        if stage == 1:
            loss = self.stage1_loss(x, y, mask=mask)
        else:
            loss = self.stage2_loss(x, y, mask=mask, encoded=encoded)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def fit(
        self,
        batches: Iterable[Batch],
        *,
        epochs: int = 50,
        schedule: str = "sequential",
        stage1_epochs: int | None = None,
        keep_features: bool = False,
    ) -> list[dict[int, float]]:
        """Train by one of the two schedules.

        Args:
            batches: gone through once an epoch, so it must be possible to iterate it again.
            epochs: how often.
            schedule: "sequential" has stage 1 for `stage1_epochs` epochs, then stage 2 for the
                rest; "alternating" has both stages, in turn, on every batch.
            stage1_epochs: where the sequential schedule changes over; when left out, at the
                released share of 31 in 50.
            keep_features: in the sequential schedule, encode every batch once when stage 2 begins
                and train attention on that. Exact where batches are the same in every epoch and
                the encoder has no dropout; memory for all features.

        Returns:
            The mean loss of each stage that ran, epoch by epoch.
        """
        if schedule not in ("sequential", "alternating"):
            raise ValueError(f"schedule must be 'sequential' or 'alternating', got {schedule!r}")
        turn = round(epochs * 31 / 50) if stage1_epochs is None else stage1_epochs
        if epochs < 1 or not 0 <= turn <= epochs:
            raise ValueError(
                f"epochs must be positive and stage1_epochs in 0 to epochs, got {epochs} and {turn}"
            )
        if keep_features and schedule == "alternating":
            raise ValueError(
                "keep_features must be False with schedule='alternating', which moves the encoder"
            )
        if iter(batches) is batches and epochs > 1:
            raise ValueError("batches must be iterable again and again, got an iterator")
        history: list[dict[int, float]] = []
        kept: list[Batch] | None = None
        for epoch in range(epochs):
            stages: tuple[int, ...] = (1, 2)
            if schedule == "sequential":
                stages = (1,) if epoch < turn else (2,)
            if keep_features and stages == (2,) and kept is None:
                kept = [self._encoded(batch) for batch in batches]
            losses: dict[int, list[Tensor]] = {stage: [] for stage in stages}
            for batch in batches if kept is None else kept:
                for stage in stages:
                    losses[stage].append(self.step(batch, stage, encoded=kept is not None))
            if not losses[stages[0]]:
                raise ValueError("batches must hold at least one batch, got none")
            history.append({k: torch.stack(v).mean().item() for k, v in losses.items()})
        return history

    def _encoded(self, batch: Batch) -> Batch:
        mask = batch[2] if len(batch) == 3 else None
        features = self.encode(batch[0], mask)
        return (features, batch[1]) if mask is None else (features, batch[1], mask)

    def _loss(self, loss_fn: Loss | None) -> Loss:
        chosen = loss_fn or self.loss_fn
        if chosen is None:
            raise ValueError("loss_fn must be given here or to FASet, got None")
        return chosen

    def _part(self, name: str) -> Callable[..., Tensor]:
        part: Callable[..., Tensor] | None = getattr(self.model, name, None)
        if part is None:
            raise TypeError(
                f"model must have encode, pool and decode for features to be kept, and "
                f"{type(self.model).__name__} has no {name}"
            )
        return part

    @staticmethod
    def _call(part: Callable[..., Tensor], x: Tensor, mask: Tensor | None) -> Tensor:
        return part(x) if mask is None else part(x, mask)


def _find_attention(model: nn.Module, attention: str | Sequence[nn.Module]) -> list[nn.Module]:
    within = set(model.modules())
    if isinstance(attention, str):
        if attention != "auto":
            raise ValueError(f"attention must be 'auto' or a list of modules, got {attention!r}")
        kinds = (AttSets, AttSetsConv2d, AttSetsConv3d)
        found: list[nn.Module] = [m for m in model.modules() if isinstance(m, kinds)]
        if not found:
            raise ValueError(
                f"model {type(model).__name__} holds no AttSets, so attention='auto' has nothing "
                "to find; give a list of modules"
            )
        return found
    found = list(attention)
    for module in found:
        if module not in within:
            raise ValueError(f"attention must lie in the model, {type(module).__name__} does not")
    if not any(True for module in found for _ in module.parameters()):
        raise ValueError("attention must have parameters to train, got none")
    return found


def _check_sets(x: Tensor, y: Tensor) -> None:
    if x.ndim < 3:
        raise ValueError(f"x must be (batch, n, *element), got shape {tuple(x.shape)}")
    if y.ndim < 1 or len(y) != len(x):
        raise ValueError(f"y must have a target for each of {len(x)} sets, got {tuple(y.shape)}")


@contextmanager
def _frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Build the graph without these: what they would cost is not computed, let alone stepped."""
    wanted = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, want in zip(parameters, wanted, strict=True):
            parameter.requires_grad_(want)


@contextmanager
def _still(modules: list[nn.Module]) -> Iterator[None]:
    """Freeze running statistics too: what is frozen does not move by being run."""
    moving = [m for m in modules if m.training and isinstance(m, nn.modules.batchnorm._NormBase)]
    for module in moving:
        module.eval()
    try:
        yield
    finally:
        for module in moving:
            module.train()
