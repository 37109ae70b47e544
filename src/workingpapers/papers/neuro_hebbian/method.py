"""Neuro-modulated Hebbian learning adapts a trained classifier to shifted data while it predicts.

Source: Tang et al., CVPR 2023, arXiv:2303.00914, as the abstract and the caption of figure 2
describe it; no code of the authors is public. The soft Hebbian rule is that of
NeuromorphicComputing/SoftHebb@f4252307 (no licence file), the entropy step that of
DequanWang/tent@e9e926a6 (MIT): facts read in both. What is marked [inferred] is a choice made here,
because the description is silent.

For each unlabelled test batch x, with W the kernels of the first convolution, u its responses,
p(b,q) the patch of sample b under position q, k and l output channels:

    (1)  y_k = exp(u_k / tau) / sum_l exp(u_l / tau)    soft competition      [softhebb]
    (2)  dW_k = sum_{b,q} y_k (p(b,q) - u_k W_k)        Oja's rule, gated     [softhebb]
    (3)  W <- W + eta dW / max |dW|                     scale                 [softhebb]
    (4)  z_k = gamma_k (u_k - mean_k) / sqrt(var_k + eps) + beta_k    modulator [caption, inferred]
    (5)  H = mean_b -sum_c p_c log p_c                  entropy               [caption, tent]

The gradient of (5) reaches gamma and beta alone.
Then the batch is predicted. Mean and variance in (4) are the batch's, in every norm layer [tent].
"""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def soft_hebbian_delta(
    x: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "out channels kh kw"],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    tau: float = 1.0,
    rule: str = "soft",
    normalize: str | None = "max",
) -> Float[Tensor, "out channels kh kw"]:
    """Say how a convolution's kernels should move toward the patches that they win.

    Source: SoftHebb, HebbSoftConv2d; equations (1) to (3).

    Args:
        x: what enters the convolution.
        weight: its kernels.
        stride: as in `torch.nn.functional.conv2d`, like padding and dilation.
        padding: zeros on each side.
        dilation: spacing of a kernel's taps.
        tau: temperature of the competition; toward 0 one kernel takes all.
        rule: "soft", equation (1); "hard", only the strongest kernel learns; "anti", the strongest
            learns and the others move away, each by its share of (1).
        normalize: "max" divides by the largest change, "sum" divides each kernel's change by the
            sum of its y, None leaves equation (2) as it is.

    Shapes:
        x: `(batch, channels, height, width)`; weight and output: `(out, channels, kh, kw)`.

    Raises:
        ValueError: tau is not positive, or rule or normalize is unknown.

    >>> x, w = torch.tensor([[[[2.0]], [[1.0]]]]), torch.eye(2).view(2, 2, 1, 1)
    >>> soft_hebbian_delta(x, w, normalize=None).flatten().round(decimals=4)
    tensor([0.0000, 0.7311, 0.5379, 0.0000])
    """
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}")
    if rule not in ("soft", "hard", "anti"):
        raise ValueError(f"rule must be 'soft', 'hard' or 'anti', got {rule!r}")
    if normalize not in ("max", "sum", None):
        raise ValueError(f"normalize must be 'max', 'sum' or None, got {normalize!r}")
    # Sums over batch and space lose bits in half precision.
    x, weight = x.float(), weight.float()
    steps, pads, gaps = _pair(stride), _pair(padding), _pair(dilation)
    u = nn.functional.conv2d(x, weight, None, steps, pads, gaps)
    y = (u / tau).softmax(dim=1)  # (1)
    if rule != "soft":
        winner = torch.zeros_like(y).scatter_(1, u.argmax(dim=1, keepdim=True), 1.0)
        y = winner if rule == "hard" else torch.where(winner > 0, y, -y)
    # The weight gradient of a convolution whose output gradient is y is the sum of y * patch.
    pulled = conv2d_weight(x, list(weight.shape), y, steps, pads, gaps)
    decay = (y * u).sum(dim=(0, 2, 3)).view(-1, 1, 1, 1)
    delta = pulled - decay * weight  # (2)
    if normalize == "max":
        delta = delta / (delta.abs().max() + 1e-30)  # (3)
    elif normalize == "sum":
        delta = delta / (y.sum(dim=(0, 2, 3)).abs().view(-1, 1, 1, 1) + 1e-30)
    return delta


class SoftHebbConv2d(nn.Module):
    """Convolve, and learn the kernels without labels or gradients.

    Source: SoftHebb, HebbSoftConv2d; no bias, and the kernels are a buffer: nothing trains them but
    `learn`.

    Shapes:
        x: `(batch, in_channels, height, width)`; output: `(batch, out_channels, height', width')`.

    Args:
        in_channels: channels that come in.
        out_channels: kernels that compete.
        kernel_size: side of a kernel.
        stride: as in `nn.Conv2d`.
        padding: on each side.
        dilation: spacing of a kernel's taps.
        padding_mode: "zeros" or "reflect".
        tau: temperature of the competition.
        rule: see `soft_hebbian_delta`.
    """

    weight: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        padding_mode: str = "zeros",
        tau: float = 1.0,
        rule: str = "soft",
    ) -> None:
        super().__init__()
        if padding_mode not in ("zeros", "reflect"):
            raise ValueError(f"padding_mode must be 'zeros' or 'reflect', got {padding_mode!r}")
        if not tau > 0:
            raise ValueError(f"tau must be positive, got {tau}")
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.padding_mode, self.tau, self.rule = padding_mode, tau, rule
        made = torch.empty(out_channels, in_channels, kernel_size, kernel_size)
        self.register_buffer("weight", nn.init.kaiming_normal_(made))

    def _padded(self, x: Tensor) -> tuple[Tensor, int]:
        if self.padding_mode == "reflect" and self.padding:
            return nn.functional.pad(x, [self.padding] * 4, mode="reflect"), 0
        return x, self.padding

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch out h w"]:
        x, padding = self._padded(x)
        return nn.functional.conv2d(x, self.weight, None, self.stride, padding, self.dilation)

    def delta(
        self,
        x: Float[Tensor, "batch channels height width"],
        normalize: str | None = "max",
    ) -> Float[Tensor, "out channels kh kw"]:
        """Equation (2), scaled as asked, for what enters the layer."""
        x, padding = self._padded(x)
        return soft_hebbian_delta(
            x,
            self.weight,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            tau=self.tau,
            rule=self.rule,
            normalize=normalize,
        )

    @torch.no_grad()
    def learn(
        self,
        x: Float[Tensor, "batch channels height width"],
        eta: float,
        *,
        adaptive: bool = False,
    ) -> None:
        """Take one step of (3); `adaptive` scales eta by the root of a length's distance from 1."""
        step = eta * self.delta(x)
        if adaptive:
            norms = self.weight.flatten(1).norm(dim=1)
            step = step * (norms - 1).abs().sqrt().view(-1, 1, 1, 1)
        self.weight += step


def entropy(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """Measure in nats how undecided each prediction is.

    Source: tent.py, softmax_entropy; equation (5) before the mean.

    Shapes:
        logits: `(batch, classes)`; output: `(batch,)`.
    """
    return -(logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1)


class Modulator(nn.Module):
    """Scale and shift the channels of a response; starts as the identity.

    Source: figure 2's modulation layer where no norm layer follows the convolution [inferred].

    Shapes:
        x: `(batch, channels, ...)`; output: the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(
        self, x: Float[Tensor, "batch channels *rest"]
    ) -> Float[Tensor, "batch channels *rest"]:
        shape = (1, -1, *[1] * (x.ndim - 2))
        return x * self.gamma.view(shape) + self.beta.view(shape)


def frozen_copy(model: nn.Module) -> nn.Module:
    """Copy a source model for adaptation: evaluation mode, no parameter asks for a gradient.

    Source: tent.py, configure_model.

    Shapes:
        The copy takes and gives what the model does.
    """
    net = copy.deepcopy(model).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.grad = None
    return net


def use_batch_statistics(net: nn.Module) -> None:
    """Let every batch norm use the statistics of its batch; its running averages stay untouched.

    Source: tent.py, configure_model.

    Shapes:
        Any network; nothing of its signature changes.
    """
    net.eval()
    for module in net.modules():
        if isinstance(module, BATCH_NORMS):
            module.training, module.track_running_stats = True, False


def norm_parameters(net: nn.Module) -> list[nn.Parameter]:
    """Collect the scales and shifts of all norm layers.

    Source: tent.py, collect_params (batch norms there; group and layer norms as well here).

    Shapes:
        Each `(channels,)`, or a layer norm's own shape.
    """
    found = []
    for module in net.modules():
        if isinstance(module, NORMS):
            found += [p for p in (module.weight, module.bias) if p is not None]
    return found
