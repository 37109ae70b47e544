"""Forward-Forward: every layer tells inputs with the right label from inputs with a wrong one.

Source: [code], its Forward-Forward after arXiv:2212.13345; marks as in method.py. Images are
flattened, their first K entries give way to a label. relu* is max(0, .) forwards and the identity
backwards, rms(z) = z / (sqrt(mean_j z_j^2) + 1e-8) row by row:

    (1)  z_0 = rms([right; wrong])              2B rows, the right labels first           [code]
    (2)  h_l = relu*(sg(z_l) W_l^T + b_l)       z_{l+1} = rms(sg(h_l))                    [code]
    (3)  g_l = sum_j h_lj^2                     goodness                                  [code]
    (4)  FF_l = BCE(sigmoid(g_l - H_l), right)  the threshold is the layer's width        [code]
    (5)  m_l <- 0.9 m_l + 0.1 mean_b h_l        running means of the rows that are right  [code]
    (6)  PN_l = mean_j (mean(m_l) - m_lj)^2     keeps units equally busy                  [code]
    (7)  loss_l = FF_l + peer * PN_l            trains W_l and b_l alone                  [code]
    (8)  G_k = sum of g_l over all layers but the first, with label k written in          [code]
    (9)  prediction = argmax_k G_k              K forward passes                          [code]

A linear head reads rms(h_l) of the later layers of right rows. It is trained beside them, sees
the true label in its input and never predicts.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from workingpapers.papers.backprop_free.method import MonoForwardNet, check_sizes
from workingpapers.papers.backprop_free.official import check_shape, unwrapped

EPS = 1e-8
NEUTRAL = 0.1


class _StraightReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        return grad


def straight_relu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """max(0, x) forwards and the identity backwards, so that silent units still learn."""
    return _StraightReLU.apply(x)


def rms(z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Scale every row to a mean square of 1."""
    return z / (z.square().mean(dim=-1, keepdim=True).sqrt() + EPS)


def embed_labels(
    x: Tensor, labels: Int[Tensor, " batch"] | None, n_classes: int, scale: float | int = 1.0
) -> Float[Tensor, "batch dim"]:
    """Write labels over the first entries of flattened inputs.

    Args:
        x: inputs.
        labels: the labels, or None for the neutral one, 0.1 for every class.
        n_classes: how many entries a label takes.
        scale: what stands for the class.

    Shapes:
        x: `(batch, ...)`; labels: `(batch,)`; output: `(batch, dim)`, a copy.

    Source: [code]; `scale` is [ours].
    """
    flat = x.flatten(1).clone()
    if n_classes > flat.shape[1]:
        raise ValueError(
            f"n_classes: a label needs {n_classes} entries, x has only {flat.shape[1]} a sample"
        )
    if labels is None:
        flat[:, :n_classes] = NEUTRAL
    else:
        flat[:, :n_classes] = scale * F.one_hot(labels, n_classes).to(flat.dtype)
    return flat


def wrong_labels(
    labels: Int[Tensor, " batch"], n_classes: int, generator: torch.Generator | None = None
) -> Int[Tensor, " batch"]:
    """Draw for every label one of the others, all alike likely.

    Shapes:
        labels: `(batch,)`; output: `(batch,)`, different from it everywhere.

    Source: [code].
    """
    shift = torch.randint(1, n_classes, labels.shape, generator=generator, device=labels.device)
    return (labels + shift) % n_classes


def rate_at(epoch: int, epochs: int) -> float:
    """Share of the learning rate in an epoch, from 1: full for one half, then down to 0.

    Source: [code].
    """
    return 1.0 if epoch <= epochs // 2 else max(2 * (1 + epochs - epoch) / epochs, 0.0)


class LayerParts(NamedTuple):
    """What one layer makes of right and wrong rows."""

    goodness: Float[Tensor, " rows"]  # g_l of all 2B rows
    loss: Float[Tensor, ""]  # FF_l
    peer: Float[Tensor, ""]  # PN_l, before its weight
    normed: Float[Tensor, "batch _"]  # rms(h_l) of the right rows, cut off


class ForwardForwardNet(nn.Module):
    """A perceptron whose layers each tell right labels from wrong ones by their activity.

    Args:
        dim: input features, of which the label takes the first `n_classes`.
        hidden: units of each layer.
        n_classes: K.
        peer: weight of peer normalisation, equation (7); 0 leaves it out.
        label_scale: what a label's own entry is set to.
        momentum: of the running means, equation (5).

    Shapes:
        x: `(batch, ...)`, flattened to `(batch, dim)`; output: `(batch, n_classes)`, goodness of
            each label, equation (8).

    Source: [code], equations (1) to (9). The running means are buffers here, saved and moved
    with the network; in the released code they are a list that is neither.

    >>> ForwardForwardNet(20, hidden=(16, 12), n_classes=4)(torch.randn(3, 4, 5)).shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (2000, 2000, 2000, 2000),
        n_classes: int = 10,
        peer: float | int = 0.03,
        label_scale: float | int = 1.0,
        momentum: float | int = 0.9,
    ) -> None:
        super().__init__()
        check_sizes(dim, hidden, n_classes)
        if n_classes > dim:
            raise ValueError(
                f"n_classes: a label needs {n_classes} entries, the input has only dim={dim}"
            )
        if peer < 0 or not 0 <= momentum <= 1:
            raise ValueError(
                f"peer must not be negative and momentum lie in 0..1, got {peer} and {momentum}"
            )
        self.dim, self.hidden, self.n_classes = dim, tuple(hidden), n_classes
        self.peer, self.label_scale, self.momentum = peer, label_scale, momentum
        widths = (dim, *hidden)
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in itertools.pairwise(widths)
        )
        self.head = nn.Linear(sum(hidden[1:]), n_classes, bias=False) if hidden[1:] else None
        for i, width in enumerate(hidden):
            self.register_buffer(f"mean_{i}", torch.full((width,), 0.5))
        self.reset_parameters()

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this network anew."""
        return {
            "dim": self.dim,
            "hidden": list(self.hidden),
            "n_classes": self.n_classes,
            "peer": self.peer,
            "label_scale": self.label_scale,
            "momentum": self.momentum,
        }

    def reset_parameters(self) -> None:
        """Draw the layers anew, zero the head, set the running means to a half."""
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=layer.out_features**-0.5)  # [code]
            nn.init.zeros_(layer.bias)
            self._mean(i).fill_(0.5)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    def local_losses(
        self, right: Tensor, wrong: Tensor, y: Int[Tensor, " batch"]
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield each layer's name and loss, equation (7), then the head's; updates (5).

        A layer runs only when its loss is asked for: drop one loss before asking for the next and
        no two layers' graphs are alive together.

        Args:
            right: flattened inputs with the right labels written in.
            wrong: the same with wrong labels.
            y: the right labels, for the head.
        """
        seen = []
        for i, part in enumerate(self.parts(right, wrong)):
            yield f"layer {i}", part.loss + self.peer * part.peer if self.peer else part.loss  # (7)
            if i:
                seen.append(part.normed)
            del part  # and with it the layer's graph
        if self.head is not None:
            yield "head", F.cross_entropy(self.head(torch.cat(seen, dim=1)), y)

    def parts(self, right: Tensor, wrong: Tensor) -> Iterator[LayerParts]:
        """Run right and wrong rows through the layers one by one, and yield what each makes.

        Args:
            right: flattened inputs with the right labels written in.
            wrong: the same with wrong labels.
        """
        z = rms(torch.cat([self._flat(right), self._flat(wrong)]))  # (1)
        n = len(right)
        is_right = (torch.arange(2 * n, device=z.device) < n).to(z.dtype)
        for i, layer in enumerate(self.layers):
            h = straight_relu(layer(z))  # (2)
            g = h.square().sum(dim=1)  # (3)
            ff = F.binary_cross_entropy_with_logits(g - h.shape[1], is_right)  # (4)
            m = self.momentum * self._mean(i) + (1 - self.momentum) * h[:n].mean(dim=0)  # (5)
            pn = (m.mean() - m).square().mean()  # (6)
            self._mean(i).copy_(m.detach())
            z = rms(h.detach())  # (2)
            yield LayerParts(g, ff, pn, z[:n])
            del h, g, ff, m, pn

    @torch.no_grad()
    def goodness(self, x: Tensor) -> Float[Tensor, "layers batch classes"]:
        """g_l of every layer with every label written in, equation (3).

        Only the label's entries differ between the K inputs of a sample, and a label has the same
        length whatever the class: one product of the rest with W_0 serves all K.
        """
        flat, k = self._flat(x), self.n_classes
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        rest = flat[:, k:]
        length = ((rest.square().sum(dim=1) + self.label_scale**2) / self.dim).sqrt() + EPS
        shared = rest @ first.weight[:, k:].T  # (batch, H)
        label = self.label_scale * first.weight[:, :k].T  # (classes, H)
        h = shared.unsqueeze(1) + label
        h = (h / length[:, None, None] + first.bias).relu().flatten(0, 1)  # (batch * classes, H)
        found = [h.square().sum(dim=1)]
        for layer in list(self.layers)[1:]:
            h = layer(rms(h)).relu()
            found.append(h.square().sum(dim=1))
        return torch.stack(found).unflatten(1, (len(flat), k))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        g = torch.cat([self.goodness(piece) for piece in x.split(256)], dim=1)
        return g[1:].sum(dim=0) if len(g) > 1 else g[0]  # (8)

    def activations(self, z: Tensor) -> list[Float[Tensor, "batch _"]]:
        """h_l of inputs that have a label written in already, rows as they are."""
        z, found = self._flat(z), []
        for layer in self.layers:
            h = layer(rms(z)).relu()
            found.append(h)
            z = h
        return found

    def trainer(
        self,
        lr: float | int,
        *,
        weight_decay: float | int = 0.0,
        head_lr: float | int | None = None,
        head_weight_decay: float | int = 0.0,
        generator: torch.Generator | None = None,
    ) -> "ForwardForwardTrainer":
        """Train this network with `workingpapers.kit.local_learning.train`.

        Args:
            lr: AdamW's learning rate for the layers.
            weight_decay: for the layers.
            head_lr: learning rate of the head; that of the layers when left out.
            head_weight_decay: for the head.
            generator: what draws wrong labels.
        """
        rates = (lr, lr if head_lr is None else head_lr)
        return ForwardForwardTrainer(self, rates, (weight_decay, head_weight_decay), generator)

    @classmethod
    def from_official(cls, state: Mapping[str, Any], **config: Any) -> "ForwardForwardNet":
        """Build from the released code's layout; sizes are read from the tensors.

        Args:
            state: `layers.{l}.weight|bias` and `linear_classifier.0.weight`, perhaps inside
                `{"model": ...}` or the like. Running means are not in it and start anew.
            config: `peer`, `label_scale`, `momentum`; `n_classes` for a single layer, which has
                no head to read it from.

        Shapes:
            None: every tensor is copied as it is.
        """
        state = unwrapped(state)
        depth = sum(name.startswith("layers.") and name.endswith(".weight") for name in state)
        if not depth or "layers.0.weight" not in state:
            raise ValueError(
                "state must hold layers.0.weight, as Forward-Forward's official layout has it, "
                f"got {', '.join(sorted(state)[:6]) or 'nothing'}"
            )
        weights = [state[f"layers.{i}.weight"] for i in range(depth)]
        if depth > 1:
            config["n_classes"] = state["linear_classifier.0.weight"].shape[0]
        net = cls(weights[0].shape[1], [len(weight) for weight in weights], **config)
        own = net.to_official()
        if own.keys() != state.keys():
            raise ValueError(f"state must hold {sorted(own)}, got {sorted(state)}")
        with torch.no_grad():
            for name, tensor in own.items():
                check_shape(name, state[name], tensor)
                tensor.copy_(state[name])
        return net

    def to_official(self) -> dict[str, Tensor]:
        """All weights under the released code's names; they share memory with this network."""
        found: dict[str, Tensor] = {}
        for i, layer in enumerate(self.layers):
            found |= {f"layers.{i}.{key}": p for key, p in layer.named_parameters()}
        if self.head is not None:
            found["linear_classifier.0.weight"] = self.head.weight
        return found

    def as_backprop(self) -> nn.Sequential:
        """The twin for backpropagation: a perceptron of the same widths with its own start."""
        return MonoForwardNet(self.dim, self.hidden, self.n_classes).as_backprop()

    def _mean(self, layer: int) -> Tensor:
        mean = getattr(self, f"mean_{layer}")
        assert isinstance(mean, Tensor)
        return mean

    def _flat(self, x: Tensor) -> Float[Tensor, "batch dim"]:
        flat = x.flatten(1) if x.ndim > 1 else x
        if flat.ndim != 2 or flat.shape[1] != self.dim:
            raise ValueError(f"x must flatten to (batch, {self.dim}), got shape {tuple(x.shape)}")
        return flat


class ForwardForwardTrainer:
    """Trains a `ForwardForwardNet` batch by batch; a local trainer of the kit."""

    def __init__(
        self,
        network: ForwardForwardNet,
        rates: tuple[float | int, float | int],
        decays: tuple[float | int, float | int],
        generator: torch.Generator | None,
    ) -> None:
        if not min(rates) > 0 or min(decays) < 0:
            raise ValueError(
                f"rates must be positive and decays not negative, got {rates} and {decays}"
            )
        self.network: nn.Module = network
        self._net, self._generator, self._rates = network, generator, rates
        layers = list(network.layers.parameters())
        groups: list[dict[str, Any]] = [{"params": layers, "weight_decay": decays[0]}]
        if network.head is not None:
            groups.append({"params": [network.head.weight], "weight_decay": decays[1]})
        self._optimiser = torch.optim.AdamW(groups)
        self.set_rate(1.0)

    def set_rate(self, share: float | int) -> None:
        """Set all learning rates to this share of what they were given as, 1e-9 at the least."""
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=False):
            group["lr"] = max(rate * share, 1e-9)  # [code]

    def fit_step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Update all layers from one batch and its wrong labels; the loss of each layer."""
        net = self._net
        scale = net.label_scale
        right = embed_labels(x, y, net.n_classes, scale)
        wrong = wrong_labels(y, net.n_classes, self._generator)
        found = {}
        self._optimiser.zero_grad()
        for name, loss in net.local_losses(right, embed_labels(x, wrong, net.n_classes, scale), y):
            loss.backward()
            found[name] = loss.item()
            del loss
        self._optimiser.step()
        return found

    def scores(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Goodness of each label, equation (8)."""
        return self._net(x)
