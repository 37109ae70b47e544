"""SEMA's parts: adapters that are mixed, descriptors that know what they were trained on, a router.

Source: Wang et al., CVPR 2025, arXiv:2403.18886; code huiyiwang01/SEMA-CL@5a45512 (MIT), backbone/
sema_block.py, sema_components.py and vit_sema.py. At one block of a frozen transformer, x (B, N, d)
is what enters the MLP's half of the block, before its normalisation; m is the mean of its tokens:

    (1)  f_k(x) = ReLU(x Wd_k + bd_k) Wu_k + bu_k      functional adapter      [paper, eq. 1]
    (2)  r_k    = mean_d (m We_k Wx_k - m)^2           descriptor's error      [code; paper: sum]
    (3)  w      = softmax(m Wmix + bmix)               one weight per sample   [paper, eq. 3]
    (4)  A(x)   = sum_k w_k f_k(x)                     added to the block's answer
    (5)  z_k    = |r_k - mu_k| / sigma_k               novelty; paper: signed  [code]
    (6)  expand when min_k mean_i z_ki > threshold     i over a scanned batch  [code]

The biases of (1) and (2) are the code's. mu and sigma are of the last errors that a descriptor saw
while its task was being learnt.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class SEMAConfig:
    """Say how large the modules are, which blocks may grow, and when.

    Args:
        bottleneck: width of an adapter.
        rd_dim: width of a descriptor.
        buffer_size: how many of its last errors a descriptor's mean and deviation are taken over.
        threshold: mean z above which a block grows; infinity never grows, 0 always does.
        expand_layers: numbers of the blocks that may grow, from 0; the others keep one adapter,
            which is trained on the first task alone.
        adapter: "adaptformer" is (1); "lora" is the same without ReLU and biases.
        rd_on: what a descriptor describes, the tokens' "mean" or the "class" token.
        signed_z: leave the absolute value out of (5), as the paper does, so that a task which is
            described better than the first one does not fire.

    Source: [paper, section 4.1] for the defaults; threshold 2 on CIFAR-100 and ImageNet-R.
    """

    bottleneck: int = 16
    rd_dim: int = 128
    buffer_size: int = 500
    threshold: float | int = 1.0
    expand_layers: tuple[int, ...] = (9, 10, 11)
    adapter: str = "adaptformer"
    rd_on: str = "mean"
    signed_z: bool = False

    def __post_init__(self) -> None:
        for name in ("bottleneck", "rd_dim", "buffer_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if math.isnan(self.threshold) or self.threshold < 0:
            raise ValueError(f"threshold must be 0 or more, got {self.threshold}")
        if self.adapter not in ("adaptformer", "lora"):
            raise ValueError(f"adapter must be 'adaptformer' or 'lora', got {self.adapter!r}")
        if self.rd_on not in ("mean", "class"):
            raise ValueError(f"rd_on must be 'mean' or 'class', got {self.rd_on!r}")
        layers = tuple(self.expand_layers)
        if len(set(layers)) != len(layers) or any(layer < 0 for layer in layers):
            raise ValueError(f"expand_layers must be distinct numbers from 0, got {layers}")
        object.__setattr__(self, "expand_layers", tuple(sorted(layers)))


class Adapter(nn.Module):
    """One functional adapter: a bottleneck beside the MLP, zero until it is trained.

    Shapes:
        x: `(*batch, dim)`; output the same.

    Source: [paper, eq. 1]; biases and the missing scale [code, sema_components.py].
    """

    def __init__(self, dim: int, bottleneck: int, kind: str = "adaptformer") -> None:
        super().__init__()
        bias = kind == "adaptformer"
        self.kind = kind
        self.down = nn.Linear(dim, bottleneck, bias=bias)
        self.up = nn.Linear(bottleneck, dim, bias=bias)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)
        if bias:
            nn.init.zeros_(self.down.bias)
            nn.init.zeros_(self.up.bias)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        hidden = self.down(x)
        return self.up(hidden if self.kind == "lora" else F.relu(hidden))  # (1)


class Descriptor(nn.Module):
    """A linear autoencoder that knows what its adapter was trained on, and how well it fits.

    Shapes:
        m: `(batch, dim)`; errors and z `(batch,)`.

    Attributes:
        errors: the last `count` of the errors recorded, oldest first, in a buffer of full size.
        open: whether it still records; a task's end closes it.

    Source: [paper, section 3.3]; [code, sema_components.py: AE and Records].
    """

    errors: Tensor
    count: Tensor

    def __init__(self, dim: int, rd_dim: int, buffer_size: int, signed: bool = False) -> None:
        super().__init__()
        self.signed, self.open = signed, True
        self.encoder = nn.Linear(dim, rd_dim)
        self.decoder = nn.Linear(rd_dim, dim)
        for layer in (self.encoder, self.decoder):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
            nn.init.zeros_(layer.bias)
        self.register_buffer("errors", torch.zeros(buffer_size))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, m: Float[Tensor, "batch d"]) -> Float[Tensor, " batch"]:
        return (self.decoder(self.encoder(m)) - m).square().mean(dim=1)  # (2)

    @property
    def recorded(self) -> Float[Tensor, " n"]:
        """The errors that mean and deviation are taken over."""
        return self.errors[: int(self.count)]

    @torch.no_grad()
    def record(self, r: Float[Tensor, " batch"]) -> None:
        """Take in a batch of errors; where the buffer fills, the rest is dropped, then the oldest.

        Dropping is what the official code does, once, in the batch that fills the buffer.
        """
        size, count = len(self.errors), int(self.count)
        if count < size:
            new = r[: size - count]
            self.errors[count : count + len(new)] = new
            self.count.fill_(count + len(new))
        else:
            self.errors.copy_(torch.cat([self.errors, r])[-size:])

    def z(self, r: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """How many deviations errors are from the mean of those recorded; 0 while there are few."""
        if self.count <= 2:
            return torch.zeros_like(r)
        sigma, mu = torch.std_mean(self.recorded)
        if sigma == 0:
            raise ValueError(
                f"all {int(self.count)} recorded errors are {mu.item():g}, so their deviation is 0 "
                "and z is not defined: the features must vary"
            )
        z = (r - mu) / sigma  # (5)
        return z if self.signed else z.abs()


class AdapterPool(nn.Module):
    """The adapters of one block, mixed for each sample, with their descriptors.

    While an expansion is being learnt, `new_router` holds the newest adapter's row of the router;
    `fold` makes it part of `router`.

    Shapes:
        x: `(batch, tokens, dim)`; the output is what to add to the block's answer.
        mask: `(batch, tokens)`, nonzero where a token is no padding.

    Source: [paper, section 3.2 and 3.4]; [code, sema_block.py: SEMAModules].
    """

    def __init__(self, dim: int, config: SEMAConfig, expandable: bool = True) -> None:
        super().__init__()
        self.dim, self.config, self.expandable = dim, config, expandable
        self.adapters, self.descriptors = nn.ModuleList(), nn.ModuleList()
        self.router = nn.Linear(dim, 1)
        self.new_router: nn.Linear | None = None
        self._append()

    def _append(self) -> None:
        config, like = self.config, self.router.weight
        adapter = Adapter(self.dim, config.bottleneck, config.adapter).to(like)
        self.adapters.append(adapter)
        if self.expandable:
            descriptor = Descriptor(self.dim, config.rd_dim, config.buffer_size, config.signed_z)
            self.descriptors.append(descriptor.to(like))  # integers keep their type

    def rds(self) -> Iterator[Descriptor]:
        """The descriptors, one for each adapter of a block that may grow."""
        for descriptor in self.descriptors:
            assert isinstance(descriptor, Descriptor)
            yield descriptor

    def expand(self) -> None:
        """Freeze what there is and add a module, with a fresh row of the router.

        Raises:
            RuntimeError: the block may not grow, or the last new row was not folded in.
        """
        if not self.expandable or self.new_router is not None:
            raise RuntimeError("expand needs an expandable pool whose new row is folded in")
        self.requires_grad_(False)
        self._append()
        self.new_router = nn.Linear(self.dim, 1).to(self.router.weight)

    def fold(self) -> None:
        """Make the newest adapter's row part of the router, which changes no answer."""
        if self.new_router is not None:
            self.resize_router(len(self.adapters))
        self.new_router = None

    def unfold(self) -> None:
        """Take the newest row out of the router again, so that it can be trained."""
        rows = len(self.adapters)
        new = nn.Linear(self.dim, 1).to(self.router.weight)
        with torch.no_grad():
            new.weight.copy_(self.router.weight[-1:])
            new.bias.copy_(self.router.bias[-1:])
        self.resize_router(rows - 1)
        self.new_router = new

    def resize(self, count: int) -> None:
        """Have `count` modules, the first ones kept, to load a state into."""
        self.new_router = None
        while len(self.adapters) < count:
            self._append()
        for modules in (self.adapters, self.descriptors):
            del modules[count:]
        self.resize_router(count)

    def resize_router(self, rows: int) -> None:
        """Give the router `rows` rows: its own, then the new one's, the rest zero; frozen."""
        parts = [self.router] + ([self.new_router] if self.new_router is not None else [])
        router = nn.Linear(self.dim, rows).to(self.router.weight).requires_grad_(False)
        for own, name in ((router.weight, "weight"), (router.bias, "bias")):
            held = torch.cat([getattr(part, name).detach() for part in parts])[:rows]
            own.zero_()[: len(held)] = held
        self.router = router

    def summary(
        self, x: Float[Tensor, "batch n d"], mask: Tensor | None = None
    ) -> Float[Tensor, "batch d"]:
        """The mean of the tokens, class token included and padding not."""
        if mask is None:
            return x.mean(dim=1)
        weight = mask.to(x.dtype).unsqueeze(-1)
        return (x * weight).sum(dim=1) / weight.sum(dim=1)

    def described(
        self, x: Float[Tensor, "batch n d"], mask: Tensor | None = None
    ) -> Float[Tensor, "batch d"]:
        """What the descriptors see of `x`."""
        return x[:, 0] if self.config.rd_on == "class" else self.summary(x, mask)

    def weights(self, m: Float[Tensor, "batch d"]) -> Float[Tensor, "batch k"]:
        """How much of each adapter every sample gets."""
        logits = self.router(m)
        if self.new_router is not None:
            logits = torch.cat([logits, self.new_router(m)], dim=1)
        return logits.softmax(dim=1)  # (3)

    def errors(self, m: Float[Tensor, "batch d"]) -> Float[Tensor, "batch k"]:
        """How badly each descriptor knows each sample."""
        return torch.stack([descriptor(m) for descriptor in self.rds()], dim=1)

    def z(self, m: Float[Tensor, "batch d"]) -> Float[Tensor, "batch k"]:
        """How new each sample is to each descriptor."""
        return torch.stack([rd.z(rd(m)) for rd in self.rds()], dim=1)

    def record(self, m: Float[Tensor, "batch d"]) -> None:
        """Let the descriptors that are open take in how badly they know these samples."""
        with torch.no_grad():
            for descriptor in self.rds():
                if descriptor.open:
                    descriptor.record(descriptor(m))

    def forward(
        self, x: Float[Tensor, "batch n d"], mask: Tensor | None = None
    ) -> Float[Tensor, "batch n d"]:
        if len(self.adapters) == 1:
            return self.adapters[0](x)  # its weight is 1 whatever the router is
        w = self.weights(self.summary(x, mask))
        adapters = [adapter for adapter in self.adapters if isinstance(adapter, Adapter)]
        downs = [adapter.down for adapter in adapters]
        ups = [adapter.up for adapter in adapters]
        weight = torch.cat([down.weight for down in downs])  # (K r, d)
        out = torch.cat([up.weight for up in ups], dim=1)  # (d, K r)
        mix = w.repeat_interleave(self.config.bottleneck, dim=1).unsqueeze(1)  # (B, 1, K r)
        if self.config.adapter == "lora":
            return F.linear(F.linear(x, weight) * mix, out)
        hidden = F.relu(F.linear(x, weight, torch.cat([down.bias for down in downs])))
        shift = w @ torch.stack([up.bias for up in ups])  # (B, d)
        return F.linear(hidden * mix, out) + shift.unsqueeze(1)  # (4)
