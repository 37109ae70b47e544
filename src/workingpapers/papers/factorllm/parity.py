"""Runs our cut Llama as the released code runs its own, under the official names."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from workingpapers.kit.golden import answers
from workingpapers.papers.factorllm.graft import factorized_layers
from workingpapers.papers.factorllm.official import from_official
from workingpapers.papers.factorllm.training import FactorLLMLoss, balance_loss, pa_loss


def run(
    config: dict[str, Any], state: dict[str, Tensor], inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Load the official `state` by `config`, answer `inputs`, and differentiate the whole loss."""
    model: Any = from_official(state, config)
    model.train()  # a Llama drops nothing; the teachers answer in training only
    layers = factorized_layers(model)
    names = {name: name.removeprefix("model.") for name in layers}
    mid: dict[str, Tensor] = {}

    def note(into: str, out: str, module: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> None:
        mid[into], mid[out] = given[0], y

    handles = []
    for name, layer in layers.items():
        short = names[name]
        hook = partial(note, f"{short}.x", f"{short}.out")
        handles.append(layer.register_forward_hook(hook))
        assert layer.teacher is not None
        hook = partial(note, f"{short}.teacher_in", f"{short}.teacher_out")
        handles.append(layer.teacher.register_forward_hook(hook))
    found = model(**inputs, use_cache=False)
    for handle in handles:
        handle.remove()
    weights = FactorLLMLoss(config.get("route_weight", 0.05), config.get("balance_weight", 0.01))
    loss = weights(model, found.loss)
    loss.backward()

    grad: dict[str, Tensor] = {}
    for name, layer in layers.items():
        short, lesson = names[name], layer.lesson
        assert lesson is not None and lesson.error is not None
        assert lesson.label is not None and lesson.pa is not None
        chosen = lesson.logits.softmax(-1).topk(layer.top_k, dim=-1).indices
        mid[f"{short}.gate_logits"] = lesson.logits
        mid[f"{short}.gate_logits_teacher"] = lesson.teacher_logits
        mid[f"{short}.neg_mse"] = -lesson.error
        mid[f"{short}.label"] = lesson.label
        mid[f"{short}.mask"] = lesson.label.new_zeros(lesson.label.shape).scatter(-1, chosen, 1.0)
        mid[f"{short}.route_loss"] = lesson.pa
        mid[f"{short}.balance_loss"] = lesson.balance
        for part in ("gate", "up", "down"):
            held = layer.experts.get_parameter(part).grad
            assert held is not None
            for j, one in enumerate(held):
                grad[f"{name}.{part}_proj_list.{j}.weight"] = one
        for part in ("weight", "bias"):
            held = layer.router.get_parameter(part).grad
            if held is not None:
                grad[f"{name}.route1.{part}"] = held
    output = {
        "logits": found.logits,
        "lm_loss": found.loss,
        "route_loss": pa_loss(model),
        "balance_loss": balance_loss(model),
        "loss": loss,
        "teacher_hidden": mid[f"{list(names.values())[-1]}.teacher_out"],
    }
    return answers(output=output, mid=mid, grad=grad)
