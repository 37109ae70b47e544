"""The official checkpoint layout: TensorFlow names and axis orders, to and from torch's.

Source: Yang7879/AttSets@cfef26a, the variables that tools.py makes [code]. A layer `l` has
`<scope>/l_w` and `<scope>/l_b`. Axes: dense (in, out); convolution (*kernel, in, out);
transposed convolution (*kernel, out, in). No kernel is flipped in either direction.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Layer = nn.Linear | nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d


def unscoped(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Arrays by bare layer name: without scope, `:0` and what the optimiser keeps.

    Raises:
        ValueError: two arrays have the same bare name.
    """
    found: dict[str, Tensor] = {}
    for name, array in state.items():
        bare = name.removesuffix(":0").split("/")
        if bare[-1].startswith("Adam"):  # slots of a weight: r2n/l1_w/Adam, r2n/l1_w/Adam_1
            continue
        if bare[-1] in found:
            raise ValueError(f"state must hold {bare[-1]!r} once, got it in two scopes")
        found[bare[-1]] = torch.as_tensor(array)
    return found


def layer(state: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor | None]:
    """The weight of one layer and, where it has one, its bias."""
    if f"{name}_w" not in state:
        near = ", ".join(sorted(state)[:8]) or "nothing"
        raise ValueError(f"state must hold {name + '_w'!r}, got {near}")
    return state[f"{name}_w"], state.get(f"{name}_b")


def to_torch(module: Layer, weight: Tensor, bias: Tensor | None, name: str) -> None:
    """Copy an official weight and bias into a torch layer.

    Shapes:
        weight: the official axis order of the layer's kind.
        bias: `(out,)`, or None for a layer without.
    """
    turned = weight.permute(_order(module, back=False)) if weight.ndim == _axes(module) else weight
    if turned.shape != module.weight.shape:
        want = tuple(module.weight.permute(_order(module, back=True)).shape)
        raise ValueError(f"{name}_w must have shape {want}, got {tuple(weight.shape)}")
    if (bias is None) != (module.bias is None):
        raise ValueError(f"state must hold {name + '_b'!r} as it holds {name + '_w'!r}")
    with torch.no_grad():
        module.weight.copy_(turned)
        if bias is not None and module.bias is not None:
            if bias.shape != module.bias.shape:
                want = tuple(module.bias.shape)
                raise ValueError(f"{name}_b must have shape {want}, got {tuple(bias.shape)}")
            module.bias.copy_(bias)


def to_tensorflow(module: Layer, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A weight of a torch layer, or its gradient, in the official axis order."""
    return weight.permute(_order(module, back=True)).contiguous()


def _axes(module: Layer) -> int:
    return module.weight.ndim


def _order(module: Layer, *, back: bool) -> tuple[int, ...]:
    """Both kinds in torch: (out, in, *kernel), or (in, out, *kernel) where transposed."""
    axes = _axes(module)
    if back:
        return (*range(2, axes), 1, 0)
    return (axes - 1, axes - 2, *range(axes - 2))
