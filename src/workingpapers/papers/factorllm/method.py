"""FactorLLM cuts a trained feed-forward layer into experts and sends each token to a few of them.

Source: Zhao et al., arXiv:2408.11855, v1: the abstract [abstract]; zhenwuweihe/FactorLLM@8094dc4
(no licence file) [code]; what is marked [ours] fills what neither says. The dense layer F has I
hidden neurons, cut into N parts of I / N; part j is an expert f_j with its rows of W_gate and W_up
and its columns of W_down. R and b are the router's; K experts are on; c = N / K, or N // K [code];
x is the layer's input, z the teacher's, t = F(z) with the weights before the cut:

    (1)  F(x) = sum_j f_j(x),  f_j(x) = W_down_j (act(W_gate_j x) * (W_up_j x))        exact
    (2)  p(x) = softmax(R x + b),  T(x) = the K likeliest                              router
    (3)  y    = c sum of f_j(x), j in T(x)                                             hard gate
    (4)  e_j  = mean over features of (f_j(z) - t / c)^2,  m = 1 for the K least e_j   pseudo-label
    (5)  L_PA = mean over tokens of KL(p(z) || softmax(m))                      prior-approximate
    (6)  L_b  = mean over tokens and experts of p_j(z), j in T(z), else 0              balance

The gate is 0 or 1, so R and b learn from (5) and (6) alone. z is the layer's own input here [ours];
the released code feeds a layer's teacher what the teacher below it answered, `"chain"`.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.layers import ffn, sites
from workingpapers.kit.layers.experts import Dispatch
from workingpapers.kit.layers.routing import choose
from workingpapers.papers.factorllm.cut import Permute, cut, joined, neuron_order
from workingpapers.papers.factorllm.lesson import (
    balance_term,
    nearest_experts,
    nearest_subset,
    pa_divergence,
)

TeacherInput = Literal["student", "dense", "chain"]
Label = Literal["single", "subset", "released"]
Rescale = Literal["exact", "floor", "none"]


class Lesson(NamedTuple):
    """What a layer's teacher said about its last tokens, and what its router said.

    Shapes:
        logits, teacher_logits: `(*tokens, experts)`, R x + b and R z + b.
        error, label: `(*tokens, experts)`, e and m; none without a teacher.
        pa, balance: scalars, (5) and (6); no `pa` without a teacher.

    Source: (2), (4), (5) and (6).
    """

    logits: Float[Tensor, "*tokens experts"]
    teacher_logits: Float[Tensor, "*tokens experts"]
    error: Float[Tensor, "*tokens experts"] | None
    label: Float[Tensor, "*tokens experts"] | None
    pa: Float[Tensor, ""] | None
    balance: Float[Tensor, ""]


class Answered(NamedTuple):
    """What one expert said, and to which tokens; none where to all."""

    tokens: Tensor | None
    answers: Tensor


class Weights(NamedTuple):
    """Of one expert."""

    up: Tensor
    down: Tensor
    gate: Tensor | None
    up_bias: Tensor | None
    gate_bias: Tensor | None


class FactorizedFFN(nn.Module):
    """Answer as a feed-forward layer does, with a few of its parts for each token.

    In training the frozen layer teaches the router, and `lesson` holds what it said about the last
    tokens; in evaluation it is not asked. With all experts on, the answer is the dense layer's.

    Args:
        dense: a layer with gate_proj, up_proj and down_proj, or with two matrices, as
            `kit.layers.ffn` reads it; frozen and kept as `teacher`. Its weights are copied.
        num_experts: N.
        top_k: K.
        permute: which neurons make a part: neighbours ("none"), random ones, or those with similar
            rows ("cluster").
        teacher_input: what z is: the layer's own input ("student"), what the dense model sees here
            ("dense", from `dense_pass`), or the teacher's answer in the layer below ("chain").
        label: how m is chosen: each expert by itself ("single"), the best K together ("subset"),
            or by itself and with the ties of a softmax, as in the released code ("released").
        rescale: c: "exact" is N / K, "floor" N // K, "none" 1.
        router_init_std: the deviation of R; b starts at zero.
        generator: draws R and the permutation.

    Shapes:
        x: `(*tokens, dim)`.
        output: `(*tokens, dim)`.

    Raises:
        ValueError: sizes that do not divide, or an unknown option.
        TypeError: not a feed-forward layer, or quantised weights.

    Source: (1) to (6).
    """

    order: Int[Tensor, " kept"]

    def __init__(
        self,
        dense: nn.Module,
        num_experts: int = 4,
        top_k: int = 2,
        *,
        permute: str = "none",
        teacher_input: str = "student",
        label: str = "single",
        rescale: str = "exact",
        router_init_std: float = 0.02,
        generator: torch.Generator | None = None,
    ) -> None:
        check_options(num_experts, top_k, permute, teacher_input, label, rescale, router_init_std)
        parts = ffn.read(dense)
        if parts is None:
            raise TypeError(
                "dense must be a feed-forward layer with gate_proj/up_proj/down_proj or fc1/fc2, "
                f"got a {type(dense).__name__}"
            )
        if parts.hidden % num_experts:
            raise ValueError(
                f"num_experts must divide the {parts.hidden} hidden neurons, got {num_experts}"
            )
        super().__init__()
        self.names, self.drop, self.hidden = parts.names, parts.drop, parts.hidden
        self.parts = num_experts  # N of (3), also where experts are pruned
        self.top_k, self.permute, self.teacher_input = top_k, permute, teacher_input
        self.label, self.rescale = label, rescale
        rows = sites.weight(parts.up if parts.gate is None else parts.gate)
        self.register_buffer("order", neuron_order(rows, num_experts, permute, generator))
        self.experts = cut(parts, self.order, num_experts)
        shift = sites.bias(parts.down)  # added once, not by every expert
        self.bias = None if shift is None else nn.Parameter(shift.detach().clone())
        drawn = router_init_std * torch.randn(num_experts, parts.dim, generator=generator)
        with torch.device("meta"):
            self.router = nn.Linear(parts.dim, num_experts)
        self.router.weight = nn.Parameter(drawn.to(rows))
        self.router.bias = nn.Parameter(rows.new_zeros(num_experts))
        self.teacher: nn.Module | None = dense.requires_grad_(False)
        self.shell: tuple[nn.Module, ...] = ()  # the dense layer without its weights
        self.below: tuple[FactorizedFFN, ...] = ()  # for "chain"; a tuple, so no submodule
        self.counted: Bool[Tensor, "*tokens"] | None = None  # tokens that are no padding
        self.ask_teacher = False  # answer as the dense layer does
        self.noted: tuple[Tensor, Tensor] | None = None  # z and t
        self.lesson: Lesson | None = None
        self.load: Float[Tensor, " experts"] | None = None  # of the last forward
        self.train(dense.training)

    @property
    def num_experts(self) -> int:
        """How many experts there are: N, less those that are pruned."""
        return self.experts.experts

    @property
    def scale(self) -> float:
        """The factor c of (3)."""
        return self.scale_for(self.top_k)

    def scale_for(self, k: int) -> float:
        """The factor c of (3) with `k` experts on."""
        if self.rescale == "none":
            return 1.0
        return self.parts / k if self.rescale == "exact" else float(self.parts // k)

    def forward(self, x: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens d"]:
        dim = self.router.in_features
        if x.shape[-1] != dim:
            raise ValueError(f"x must have {dim} features last, got {tuple(x.shape)}")
        if self.ask_teacher:
            t = self._teacher()(x)
            if self.teacher_input == "dense":
                self.noted = x.detach(), t.detach()
            return t
        flat = x.reshape(-1, dim)
        logits = self.router(flat)
        chosen = choose(logits, self.top_k).chosen  # (2)
        self.load = self._load(chosen, x.shape[:-1])
        answered = self._answers(flat, chosen)
        y = answered[0].answers.new_zeros(flat.shape)
        for said in answered:
            if said.tokens is None:
                y.add_(said.answers)
            else:
                y.index_add_(0, said.tokens, said.answers)
        if self.training:
            own = [Answered(said.tokens, said.answers.detach()) for said in answered]
            self.lesson = self._teach(x.detach(), logits.detach(), own)
        y = self.scale * y if self.scale != 1 else y  # (3)
        y = y if self.bias is None else y + self.bias
        return F.dropout(y, self.drop, self.training).view(x.shape)

    def train(self, mode: bool = True) -> "FactorizedFFN":
        """As of any module, but teachers drop nothing."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def finalize(self) -> None:
        """Drop the teacher, for inference: half of the memory. Merging stays possible."""
        if self.teacher is not None:
            for name in self.names:
                self.teacher.get_submodule(name).to("meta")
            self.shell, self.teacher = (self.teacher,), None
        self.lesson, self.noted = None, None

    def merged(self) -> nn.Module:
        """The dense layer that all experts make together; neurons stand where they stood.

        Those of pruned experts are zero, and the rest is scaled as with all experts on.
        """
        dense = self.shell[0] if self.teacher is None else self.teacher
        scale = self.scale_for(self.num_experts)
        found = joined(self.experts, self.order, self.hidden, scale)
        for kind, name in zip(("up", "down", "gate"), self.names, strict=False):
            weight, bias = found[kind]
            if kind == "down" and self.bias is not None:
                bias = self.bias.detach().clone()
            sites.set_weights(dense.get_submodule(name), weight, bias)
        return dense.train(self.training)

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts without the last forward, whose graph cannot be copied."""
        return {**self.__dict__, "lesson": None, "noted": None}

    def extra_repr(self) -> str:
        return (
            f"num_experts={self.num_experts}, top_k={self.top_k}, scale={self.scale:g}, "
            f"teacher_input={self.teacher_input}, label={self.label}"
        )

    def _answers(self, x: Tensor, chosen: Tensor) -> list[Answered]:
        """What each expert says to its own tokens: K / N of the dense layer's products."""
        weights = self._weights()
        if self.top_k == self.num_experts:
            return [Answered(None, self._expert(x, own)) for own in weights]
        if len(x) == 1 and not self.training:  # one token is written: there is nothing to sort
            return [Answered(None, self._expert(x, weights[j])) for j in chosen[0].tolist()]
        to = Dispatch.of(chosen, self.num_experts)
        return [
            Answered(tokens, self._expert(x.index_select(0, tokens), own))
            for tokens, own in zip(to.token.split(to.counts), weights, strict=True)
        ]

    def _weights(self) -> list[Weights]:
        """Each expert's own; unbound, so that their gradients are not padded with zeros."""
        e = self.experts
        held = (e.up, e.down, e.gate, e.up_bias, e.gate_bias)
        absent = [None] * self.num_experts
        split = (absent if t is None else t.unbind(0) for t in held)
        return [Weights(*own) for own in zip(*split, strict=True)]

    def _expert(self, x: Tensor, w: Weights) -> Tensor:
        """The answer f_j of (1)."""
        hidden = F.linear(x, w.up, w.up_bias)
        if w.gate is None:
            hidden = self.experts.activation(hidden)
        else:
            hidden = self.experts.activation(F.linear(x, w.gate, w.gate_bias)) * hidden
        return F.linear(hidden, w.down)

    def _teacher(self) -> nn.Module:
        if self.teacher is None:
            raise RuntimeError("the teacher is gone: finalize or strip_teacher has dropped it")
        return self.teacher

    @torch.no_grad()
    def _teacher_side(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's z and t, without the output's bias."""
        if self.teacher_input == "dense":
            if self.noted is None or self.noted[0].shape != x.shape:
                got = "none" if self.noted is None else tuple(self.noted[0].shape)
                raise RuntimeError(
                    f"teacher_input='dense' needs a dense_pass with this batch first: expected "
                    f"notes for {tuple(x.shape)}, got {got}"
                )
            (z, t), self.noted = self.noted, None
        else:
            z = x
            if self.teacher_input == "chain" and self.below:
                noted = self.below[0].noted
                if noted is None:
                    raise RuntimeError("teacher_input='chain' needs the layer below to run first")
                z = noted[1]
            t = self._teacher()(z)
            if self.teacher_input == "chain":
                self.noted = z, t
        return z, t if self.bias is None else t - self._teacher_bias()

    def _teacher_bias(self) -> Tensor:
        bias = sites.bias(self._teacher().get_submodule(self.names[1]))
        assert bias is not None
        return bias

    def _teach(self, x: Tensor, logits: Tensor, own: list[Answered]) -> Lesson:
        """Ask the teacher: (4), (5) and (6); `own` are the chosen experts' answers to x."""
        shape = (*x.shape[:-1], self.num_experts)
        z, error, label, pa = x, None, None, None
        if self.teacher is not None:
            z, t = self._teacher_side(x)
            dim = x.shape[-1]
            said = own if z is x else []
            error, label = self._label(z.reshape(-1, dim), t.reshape(-1, dim), said)
            error, label = error.view(shape), label.view(shape)
        seen = self.router(z).float()
        if label is not None:
            pa = self._mean(pa_divergence(seen, label))  # (5)
        balance = self._mean(balance_term(seen, self.top_k))  # (6)
        return Lesson(logits.view(shape), seen, error, label, pa, balance)

    @torch.no_grad()
    def _label(self, z: Tensor, t: Tensor, own: list[Answered]) -> tuple[Tensor, Tensor]:
        """Errors and pseudo-labels (4); experts say to a token only what they have not said yet."""
        target, weights = t / self.scale, self._weights()
        if self.label == "subset":
            answers = torch.stack([self._expert(z, each) for each in weights], 1).float()
            label = nearest_subset(answers, target.float(), self.top_k)
            return (answers - target.unsqueeze(1)).square().mean(-1), label
        error = target.new_empty(len(z), self.num_experts, dtype=torch.float32)
        missing = torch.ones_like(error, dtype=torch.bool)
        for j, said in enumerate(own):
            tokens = slice(None) if said.tokens is None else said.tokens
            error[tokens, j] = _distance(said.answers, target[tokens])
            missing[tokens, j] = False
        for j, each in enumerate(weights):
            tokens = missing[:, j].nonzero().squeeze(1)
            if len(tokens) == len(z):
                error[:, j] = _distance(self._expert(z, each), target)
            elif len(tokens):
                error[tokens, j] = _distance(self._expert(z[tokens], each), target[tokens])
        return error, nearest_experts(error, self.top_k, released=self.label == "released")

    def _mean(self, each: Tensor) -> Tensor:
        return each.mean() if self.counted is None else each[self.counted].mean()

    def _load(self, chosen: Tensor, tokens: torch.Size) -> Tensor:
        if self.counted is not None:
            if self.counted.shape != tokens:
                raise ValueError(
                    f"mask must be {tuple(tokens)}, one for each token, got "
                    f"{tuple(self.counted.shape)}"
                )
            chosen = chosen[self.counted.flatten()]
        return chosen.flatten().bincount(minlength=self.num_experts) / max(1, len(chosen))


def _distance(answers: Float[Tensor, "rows d"], target: Float[Tensor, "rows d"]) -> Tensor:
    return (answers - target).float().square().mean(-1)


def check_options(
    num_experts: int,
    top_k: int,
    permute: str,
    teacher_input: str,
    label: str,
    rescale: str,
    router_init_std: float,
) -> None:
    """Raise ValueError for what `FactorizedFFN` cannot be built with."""
    if num_experts < 1:
        raise ValueError(f"num_experts must be 1 or more, got {num_experts}")
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"top_k must be in 1..{num_experts}, the number of experts, got {top_k}")
    for name, value, known in (
        ("permute", permute, get_args(Permute)),
        ("teacher_input", teacher_input, get_args(TeacherInput)),
        ("label", label, get_args(Label)),
        ("rescale", rescale, get_args(Rescale)),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if not 0 <= router_init_std < float("inf"):
        raise ValueError(f"router_init_std must be 0 or more, got {router_init_std}")
