"""Learning rules that send errors back by other ways than backpropagation; rivals to compare with.

Source: feedback alignment, Lillicrap et al. 2016; direct feedback alignment, Nøkland 2016;
difference target propagation, Lee et al. 2015. Written from the published rules.

All three train an `nn.Sequential` in place, behind the interface of `kit.local_learning`. W and b
are a layer's weights, B fixed random matrices, e = (softmax(logits) - onehot(y)) / n the gradient
of the mean cross entropy of n samples, h_l the output of stage l, f_l the stage, g_l its inverse:

    (1)  dh_{l-1} = dz_l B_l  in place of  dz_l W_l                    feedback alignment
    (2)  dh_l = e B_l                                                  direct feedback alignment
    (3)  t_L = h_L - rate * n * dCE/dh_L                               target of the last hidden
    (4)  t_{l-1} = h_{l-1} + g_l(t_l) - g_l(h_l)                       difference correction
    (5)  f_l learns |f_l(h_{l-1}) - t_l|^2
    (6)  g_l learns |g_l(f_l(h_{l-1} + noise)) - (h_{l-1} + noise)|^2  inverses
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from workingpapers.kit.local_learning import Optimiser


def stages_of(network: nn.Sequential) -> list[nn.Sequential]:
    """Cut a network into stages that hold one layer with a matrix or kernel each.

    What comes after such a layer, up to the next, goes with it; what comes before the first, too.

    >>> [len(s) for s in stages_of(nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.Linear(3, 1)))]
    [2, 1]
    """
    stages: list[list[nn.Module]] = [[]]
    filled = False
    for leaf in leaves(network):
        holds = any(p.ndim > 1 for p in leaf.parameters())
        if holds and filled:
            stages.append([])
        filled = filled or holds
        stages[-1].append(leaf)
    if len(stages) < 2:
        raise ValueError("network must hold two layers with weights or more")
    return [nn.Sequential(*stage) for stage in stages]


def leaves(network: nn.Module) -> list[nn.Module]:
    """The modules inside nested `nn.Sequential`s, in the order in which they run."""
    if not isinstance(network, nn.Sequential):
        return [network]
    return [leaf for child in network for leaf in leaves(child)]


class _Linear(torch.autograd.Function):
    """A linear layer whose error goes back through `back` instead of its weight, (1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, back: Tensor) -> Tensor:
        ctx.save_for_backward(x, back)
        ctx.biased = bias is not None
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        x, back = ctx.saved_tensors
        flat = g.flatten(0, -2)
        down = g @ back if ctx.needs_input_grad[0] else None  # (1)
        return down, flat.T @ x.flatten(0, -2), flat.sum(dim=0) if ctx.biased else None, None


class _Conv2d(torch.autograd.Function):
    """A convolution whose error goes back through `back` instead of its kernel, (1)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, back: Tensor, how: tuple[Any, ...]
    ) -> Tensor:
        ctx.save_for_backward(x, back)
        ctx.biased, ctx.how = bias is not None, how
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        x, back = ctx.saved_tensors
        down = conv2d_input(x.shape, back, g, *ctx.how) if ctx.needs_input_grad[0] else None  # (1)
        gradient = conv2d_weight(x, back.shape, g, *ctx.how)
        return down, gradient, g.sum(dim=(0, 2, 3)) if ctx.biased else None, None, None


class FeedbackAlignment:
    """Trains a network with fixed random matrices where backpropagation transposes the weights.

    Args:
        network: an `nn.Sequential` of linear layers, convolutions and layers without matrices.
        optimiser: parameters -> optimiser.
        generator: what the random matrices are drawn with; they are as large as torch's own
            initial weights, U(+-1/sqrt(fan_in)).

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> rule = FeedbackAlignment(net, lambda ps: torch.optim.SGD(ps, 0.1))
    >>> list(rule.fit_step(torch.randn(6, 4), torch.arange(6) % 3))
    ['network']
    """

    def __init__(
        self,
        network: nn.Sequential,
        optimiser: Optimiser,
        generator: torch.Generator | None = None,
    ) -> None:
        self.network: nn.Module = network
        self.leaves = leaves(network)
        self.back: dict[int, Tensor] = {}
        for i, leaf in enumerate(self.leaves):
            if isinstance(leaf, nn.Conv2d) and (
                isinstance(leaf.padding, str) or leaf.padding_mode != "zeros"
            ):
                raise ValueError(
                    f"network: expected convolutions padded by numbers of zeros, got {leaf}"
                )
            if isinstance(leaf, nn.Linear | nn.Conv2d):
                self.back[i] = _uniform(leaf.weight.shape, leaf.weight[0].numel(), generator)
            elif any(p.ndim > 1 for p in leaf.parameters()):
                raise TypeError(
                    f"network: expected linear layers and convolutions, got {type(leaf).__name__}"
                )
        self._step = optimiser(list(network.parameters()))

    def fit_step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Update the whole network from one batch by cross entropy."""
        self.network.train()
        self._step.zero_grad()
        loss = F.cross_entropy(self.run(x), y)
        loss.backward()
        self._step.step()
        return {"network": loss.item()}

    def run(self, x: Tensor) -> Tensor:
        """The network's own output, with a graph that leads back through the random matrices."""
        for i, leaf in enumerate(self.leaves):
            if isinstance(leaf, nn.Linear):
                x = _Linear.apply(x, leaf.weight, leaf.bias, self.back[i])
            elif isinstance(leaf, nn.Conv2d):
                how = (leaf.stride, leaf.padding, leaf.dilation, leaf.groups)
                x = _Conv2d.apply(x, leaf.weight, leaf.bias, self.back[i], how)
            else:
                x = leaf(x)
        return x

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """Rate the classes, in eval mode."""
        self.network.eval()
        return self.network(x)


class DirectFeedbackAlignment:
    """Trains every stage with the output's error, brought to it by a fixed random matrix.

    Args:
        network: an `nn.Sequential` that ends in class scores.
        optimiser: parameters -> optimiser.
        scale: size of the random matrices, U(+-scale/sqrt(features of the stage)); it matters where
            the gradient is clipped as a whole.
        generator: what they are drawn with.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> rule = DirectFeedbackAlignment(net, lambda ps: torch.optim.SGD(ps, 0.1))
    >>> list(rule.fit_step(torch.randn(6, 4), torch.arange(6) % 3))
    ['network']
    """

    def __init__(
        self,
        network: nn.Sequential,
        optimiser: Optimiser,
        *,
        scale: float = 0.25,
        generator: torch.Generator | None = None,
    ) -> None:
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.network: nn.Module = network
        self.stages = stages_of(network)
        self.back: list[Tensor] = []
        self._generator, self.scale = generator, scale
        self._step = optimiser(list(network.parameters()))

    def fit_step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Update the whole network from one batch by cross entropy."""
        self.network.train()
        self._step.zero_grad()
        outputs = []
        for stage in self.stages:
            x = stage(x.detach())
            outputs.append(x)
        loss = F.cross_entropy(x, y)
        loss.backward()
        e = (x.detach().softmax(dim=1) - F.one_hot(y, x.shape[1])) / len(x)
        if not self.back:
            self.back = [
                self.scale * _uniform((x.shape[1], h[0].numel()), h[0].numel(), self._generator)
                for h in outputs[:-1]
            ]
        for h, back in zip(outputs[:-1], self.back, strict=True):
            h.backward((e @ back).view_as(h))  # (2)
        self._step.step()
        return {"network": loss.item()}

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """Rate the classes, in eval mode."""
        self.network.eval()
        return self.network(x)


class DifferenceTargetPropagation:
    """Trains every stage toward a target that learned inverses bring down from the output.

    Args:
        network: an `nn.Sequential` that ends in class scores.
        optimiser: parameters -> optimiser, called for the network and for the inverses.
        inverses: for every stage but the first and the last (`stages_of`) a module from what it
            gives to what it takes; by default a linear layer and the activation before it, which
            fits stages of one linear layer.
        rate: how far the first target lies from the last hidden output, (3).
        noise: deviation of the noise that the inverses learn with, (6).
        generator: what draws the noise.

    >>> layers = [nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)]
    >>> rule = DifferenceTargetPropagation(
    ...     nn.Sequential(*layers), lambda ps: torch.optim.SGD(ps, 0.1)
    ... )
    >>> sorted(rule.fit_step(torch.randn(6, 4), torch.arange(6) % 3))
    ['inverse 1', 'readout', 'stage 0', 'stage 1']
    """

    def __init__(
        self,
        network: nn.Sequential,
        optimiser: Optimiser,
        inverses: Sequence[nn.Module] | None = None,
        *,
        rate: float = 0.1,
        noise: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        if not rate > 0 or noise < 0:
            raise ValueError(
                f"rate must be positive and noise not negative, got rate={rate}, noise={noise}"
            )
        self.stages = stages_of(network)
        made = linear_inverses(self.stages) if inverses is None else list(inverses)
        if len(made) != len(self.stages) - 2:
            raise ValueError(
                f"inverses: expected {len(self.stages) - 2}, one for every stage but the first and "
                f"the last, got {len(made)}"
            )
        self.forward_network, self.inverses = network, made
        self.network: nn.Module = nn.ModuleDict(
            {"network": network, "inverses": nn.ModuleList(made)}
        )
        self.rate, self.noise, self._generator = rate, noise, generator
        self._step = optimiser(list(network.parameters()))
        learnt = [p for inverse in made for p in inverse.parameters()]
        self._inverse_step = optimiser(learnt) if learnt else None

    def fit_step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Update inverses, then the network; the loss of each part by name."""
        self.network.train()
        outputs = []
        for stage in self.stages:
            x = stage(x.detach())
            outputs.append(x)
        found = self._learn_inverses([h.detach() for h in outputs[:-1]])
        self._step.zero_grad()
        top = outputs[-2].detach().requires_grad_()
        loss = F.cross_entropy(self.stages[-1](top), y)
        loss.backward()  # trains the readout, and gives (3) its direction
        assert top.grad is not None
        target = top.detach() - self.rate * len(y) * top.grad  # (3)
        found["readout"] = loss.item()
        for i in range(len(self.stages) - 2, -1, -1):
            h = outputs[i]
            toward = (h - target).square().flatten(1).sum(dim=1).mean()
            toward.backward()  # (5)
            found[f"stage {i}"] = toward.item()
            if i:
                with torch.no_grad():
                    inverse = self.inverses[i - 1]
                    target = outputs[i - 1] + inverse(target) - inverse(h)  # (4)
        self._step.step()
        return found

    def _learn_inverses(self, hidden: list[Tensor]) -> dict[str, float]:
        """(6) for every stage that has an inverse."""
        found: dict[str, float] = {}
        if self._inverse_step is None:
            return found
        self._inverse_step.zero_grad()
        for i, inverse in enumerate(self.inverses, start=1):
            drawn = torch.randn(hidden[i - 1].shape, generator=self._generator)
            noisy = hidden[i - 1] + self.noise * drawn.to(hidden[i - 1])
            with torch.no_grad():
                above = self.stages[i](noisy)
            loss = (inverse(above) - noisy).square().flatten(1).sum(dim=1).mean()
            loss.backward()
            found[f"inverse {i}"] = loss.item()
        self._inverse_step.step()
        return found

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """Rate the classes, in eval mode."""
        self.network.eval()
        return self.forward_network(x)


def linear_inverses(stages: Sequence[nn.Sequential]) -> list[nn.Module]:
    """A linear layer the other way round for every stage but the first and the last.

    Each ends in the activation of the stage before it, whose outputs it is to give back.

    Raises:
        TypeError: a stage is more than a linear layer and an activation.
    """
    found: list[nn.Module] = []
    for i in range(1, len(stages) - 1):
        layer, *rest = stages[i]
        if not isinstance(layer, nn.Linear) or any(list(part.parameters()) for part in rest):
            raise TypeError(
                f"stage {i}: expected a linear layer and an activation, got {stages[i]}"
            )
        act = [part for part in stages[i - 1] if not isinstance(part, nn.Linear | nn.Flatten)]
        found.append(nn.Sequential(nn.Linear(layer.out_features, layer.in_features), *act))
    return found


def _uniform(shape: Sequence[int], fan_in: int, generator: torch.Generator | None) -> Tensor:
    bound = 1 / math.sqrt(fan_in)
    return torch.empty(*shape).uniform_(-bound, bound, generator=generator)
