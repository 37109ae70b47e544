"""Reading what official code answered, and comparing with it."""

import fnmatch
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Golden:
    """A golden file: the arguments of `parity.run`, and what it should answer."""

    config: dict[str, Any]
    # By official key; those of a second network by the whole name: "state_second/…".
    state: dict[str, Tensor]
    inputs: dict[str, Tensor]  # by bare name
    expected: dict[str, Tensor]  # by full name: output/…, mid/…, grad/…


def read(path: Path) -> Golden:
    """Read `golden.safetensors`: `state/`, `input/` and the answers, `config` in the metadata.

    Where the official code was asked for several networks, the others' weights are under
    `state_<name>/`.
    """
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    parts: dict[str, dict[str, Tensor]] = {"state": {}, "input": {}}
    expected = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind in parts:
            parts[kind][rest] = tensor
        elif kind.startswith("state_"):
            parts["state"][name] = tensor
        else:
            expected[name] = tensor
    return Golden(config, parts["state"], parts["input"], expected)


def answers(
    output: Mapping[str, Tensor],
    mid: Mapping[str, Tensor] | None = None,
    grad: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Name answers as golden files do; outputs also stand under their bare names."""
    named = {name: tensor.detach() for name, tensor in output.items()}
    for kind, tensors in (("output", output), ("mid", mid or {}), ("grad", grad or {})):
        named |= {f"{kind}/{name}": tensor.detach() for name, tensor in tensors.items()}
    return named


def differences(
    got: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    tolerances: Mapping[str, tuple[float, float]],
) -> list[str]:
    """Compare answers with a golden file's; one line for each tensor that is off or missing.

    Args:
        got: what `parity.run` returned.
        expected: the golden answers, by full name.
        tolerances: from the card: pattern -> (absolute, share of the tensor's largest entry); the
            first pattern that fits a name decides. A tensor passes within the sum of the two.
    """
    wrong = []
    for name, want in expected.items():
        fitting = (t for pattern, t in tolerances.items() if fnmatch.fnmatchcase(name, pattern))
        allowed = next(fitting, None)
        if allowed is None:
            wrong.append(f"{name}: the card's parity table has no tolerance for it")
        elif math.isinf(allowed[0]):
            continue
        elif name not in got:
            wrong.append(f"{name}: not answered")
        elif got[name].shape != want.shape:
            wrong.append(f"{name}: shape {tuple(got[name].shape)}, expected {tuple(want.shape)}")
        elif want.numel():
            off = (got[name].double() - want.double()).abs().max().item()
            limit = allowed[0] + allowed[1] * want.double().abs().max().item()
            if not off <= limit:  # also where it is NaN
                wrong.append(f"{name}: off by {off:.2e}, allowed {limit:.2e}")
    return wrong
