"""The official parameter names, there and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workingpapers.papers.forward_gnn.convolutions import GATConv, GCNConv, SAGEConv

WRAPPERS = ("model", "state_dict", "model_state_dict")
_BEFORE, _AFTER = "layers.", ".gnn_layer.gnn."


def from_official(state: Mapping[str, Any]) -> nn.ModuleList:
    """Build the convolutions that an official checkpoint holds, first layer first.

    Give them to `ForwardGNN(conv=...)` or `ForwardLinkPredictor(conv=...)`. A checkpoint does not
    hold the features of its virtual nodes; where they are known, `fit(data, epochs=0,
    virtual_features=...)` makes it ready to predict.

    Args:
        state: by official name, `layers.<i>.gnn_layer.gnn.<parameter>`; numbers between are the
            layers without parameters. Seen through: "model", "state_dict" or "model_state_dict"
            around it, and torch_geometric's older `lin_src` in GAT.

    Shapes:
        GCN: lin.weight `(out, in)`, bias `(out,)`. SAGE: lin_l.weight and lin_r.weight `(out, in)`,
            lin_l.bias `(out,)`. GAT: att_src and att_dst `(1, heads, out / heads)` besides.

    Source: [code].
    """
    for wrapper in WRAPPERS:
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    layers: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        number, _, parameter = name.removeprefix(_BEFORE).partition(_AFTER)
        if not name.startswith(_BEFORE) or not number.isdigit() or not parameter:
            raise ValueError(f"state: expected names like {_BEFORE}0{_AFTER}bias, got {name!r}")
        parameter = parameter.replace("lin_src.", "lin.")
        layers.setdefault(int(number), {})[parameter] = torch.as_tensor(value)
    if not layers:
        raise ValueError("state: expected the parameters of one layer or more, got none")
    return nn.ModuleList(_convolution(number, layers[number]) for number in sorted(layers))


def _convolution(number: int, weights: dict[str, Tensor]) -> nn.Module:
    conv: nn.Module
    if set(weights) == {"lin.weight", "bias"}:
        conv = GCNConv(*reversed(weights["lin.weight"].shape))
    elif set(weights) == {"lin_l.weight", "lin_l.bias", "lin_r.weight"}:
        conv = SAGEConv(*reversed(weights["lin_l.weight"].shape))
    elif set(weights) == {"lin.weight", "bias", "att_src", "att_dst"}:
        out, dim_in = weights["lin.weight"].shape
        heads = weights["att_src"].shape[1]
        concat = len(weights["bias"]) == out
        conv = GATConv(dim_in, out if concat else out // heads, heads, concat)
    else:
        raise ValueError(
            f"state: expected the parameters of GCN, SAGE or GAT in layer {number}, got "
            f"{sorted(weights)}"
        )
    conv.load_state_dict(weights)
    return conv


def to_official(
    network: Sequence[nn.Module] | nn.ModuleList, *, spaced: bool = False
) -> dict[str, Tensor]:
    """Name a network's parameters as the official code does.

    Args:
        network: the convolutions, such as `ForwardGNN.layers_`.
        spaced: with numbers left out for layers without parameters: layer i is `2 i + 1`. The
            official classes for forward-forward and for plain link prediction need it, those for
            "sf", the top-down methods and their links do not.

    Shapes:
        as for `from_official`.

    Source: [code].
    """
    return {
        f"{_BEFORE}{2 * i + 1 if spaced else i}{_AFTER}{name}": value.detach().clone()
        for i, conv in enumerate(network)
        for name, value in conv.state_dict().items()
    }
