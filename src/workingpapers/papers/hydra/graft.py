"""Puts Hydra's branches on a model of timm, transformers or anybody, and takes them off again.

The linear layers are wrapped where they stand and called as before; no forward is patched, so
attention masks, fused kernels and newer versions of the model stay as they are [ours]. What trains
is what the official code trains, adapters, their scales and the task's head; but it goes by the
modules themselves, not by "scale" in a parameter's name, which catches `logit_scale` too [code].
"""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import Tensor, nn

from workingpapers.kit.layers import grafting, sites
from workingpapers.kit.layers.low_rank import Init
from workingpapers.papers.hydra.method import HydraLinear, check_options

_KEY = "hydra"  # of the config, in a file's metadata


@dataclass(frozen=True)
class HydraConfig:
    """Say which layers of a model get branches, and of which kind.

    The defaults are those of the official runs on ViT: rank 2, with biases, at the end of every
    attention and of every MLP under timm's names. For a Llama-like model, say `target_modules=
    ("o_proj", "down_proj")`, `modules_to_save=()` and `bias=False`, as its layers have no biases
    that merging could use.

    Args:
        r_par: rank of the parallel branches; 0 leaves them out.
        r_seq: rank of the sequential branches; 0 leaves them out, and LoRA remains.
        scale: what the branches are multiplied by; the official ViT runs take 0.1 to 4.5 by task.
        dropout: probability, in training, that one of the numbers between D and U is dropped.
        bias: whether the branches have biases.
        init: how D is drawn: "xavier", "kaiming" or "normal".
        target_modules: the linear layers, by a name's ending in whole words, a compiled pattern
            that fits a whole name, a function of name and layer, or several of these. What
            `apply` puts on the model holds the full names instead.
        modules_to_save: modules that are trained and saved whole, such as the task's head.
        learn_scale: let each branch learn its scale, from `scale` on.
        lean: keep less for the backward pass, see `HydraLinear`.

    Source: [code, vtab1k, elevater and nlu], which differ in these options alone.

    >>> HydraConfig(r_seq=0, scale=16 / 8, target_modules="q_proj", modules_to_save=())
    ... # LoRA with alpha 16 at rank 8, say
    HydraConfig(r_par=2, r_seq=0, scale=2.0, dropout=0.0, bias=True, init='xavier',
        target_modules=('q_proj',), modules_to_save=(), learn_scale=False, lean=False)
    """

    r_par: int = 2
    r_seq: int = 2
    scale: float | int = 1.0
    dropout: float | int = 0.0
    bias: bool = True
    init: Init = "xavier"
    target_modules: sites.Where = ("attn.proj", "mlp.fc2")
    modules_to_save: Sequence[str] = ("head",)
    learn_scale: bool = False
    lean: bool = False

    def __post_init__(self) -> None:
        check_options(self.r_par, self.r_seq, self.scale, self.dropout, self.init)
        for name in ("target_modules", "modules_to_save"):
            given = getattr(self, name)
            one = isinstance(given, str | re.Pattern) or callable(given)
            object.__setattr__(self, name, (given,) if one else tuple(given))

    def options(self) -> dict[str, Any]:
        """The arguments of `HydraLinear`."""
        both = ("target_modules", "modules_to_save")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in both}


def apply(model: nn.Module, config: HydraConfig) -> nn.Module:
    """Put branches on a model's linear layers, in place, and leave only them and the head to train.

    The model answers as before until it is trained. Only what `requires_grad` belongs into the
    optimiser: `[p for p in model.parameters() if p.requires_grad]`.

    Args:
        model: any model; its layers are wrapped where they stand.
        config: which layers, and how. The model keeps it as `hydra_config`, with full names.

    Returns:
        The same model.

    Raises:
        ValueError: something of `target_modules` or `modules_to_save` fits nothing (the message
            lists near misses), or the two overlap.
        TypeError: a target is not linear, or the model is a linear layer itself.
        RuntimeError: the model has branches already.

    Source: [code, set_hydra of vtab1k/hydra.py], for other models as well [ours].
    """
    bare = grafting.uncompiled(model)
    with grafting.trainable_on_error(bare):
        config, layers = _prepare(bare, config)
    _install(bare, config, layers)
    return model


def hydra_layers(model: nn.Module) -> dict[str, HydraLinear]:
    """The adapted layers of a model, by name: to read them, or to set their scale.

    Raises:
        ValueError: it has none.

    Source: [ours].
    """
    bare = grafting.uncompiled(model)
    found = grafting.wraps(bare, HydraLinear)
    if not found:
        raise ValueError(f"model must have Hydra's branches, got a {type(bare).__name__} without")
    return found


def hydra_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the branches and their scales; the head's are not among them.

    Source: [code, the trainable set of vtab1k, elevater and nlu].
    """
    return [p for layer in hydra_layers(model).values() for _, p in _own(layer)]


def adapter_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that training changed, by name: branches, learned scales and saved modules.

    They share the model's memory, as those of `state_dict` do.

    Shapes:
        `<layer>.par.down.weight` (r, i), `<layer>.seq.down.weight` (r, o), `….up.weight` (o, r),
        `….down.bias` (r,), `….up.bias` (o,), `<layer>.scale_par` and `scale_seq` (1,).

    Source: [code, the files that vtab1k saves], under names of our own.
    """
    bare = grafting.uncompiled(model)
    return {key: t.detach() for key, t in _tensors(bare, hydra_layers(bare), _config(bare)).items()}


def save_adapter(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the adapter alone, with its config and scale, as one safetensors file.

    Raises:
        RuntimeError: the branches were not put on by `apply`, or its layers have by now scales
            that no one config can say.

    Source: [ours]; the official file has no scale.
    """
    bare = grafting.uncompiled(model)
    layers, config = hydra_layers(bare), _config(bare)
    if config is None:
        raise RuntimeError("model must have its branches from apply to be saved, it has no config")
    if not config.learn_scale:
        scales = sorted({s for layer in layers.values() for s in layer.scales.values()})
        if len(scales) > 1:
            raise RuntimeError(f"a file holds one scale, but the layers have {scales}")
        config = replace(config, scale=scales[0])
    grafting.write(path, adapter_state_dict(bare), _KEY, asdict(config))


def load_adapter(
    model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Tensor]
) -> nn.Module:
    """Load an adapter, all of it or nothing.

    Args:
        model: a model with branches, or, for a file, the bare model, which then gets them.
        source: a file of `save_adapter`, whose scale is taken over, or tensors as
            `adapter_state_dict` has them.

    Returns:
        The same model.

    Shapes:
        as in `adapter_state_dict`.

    Raises:
        ValueError: the file is not an adapter's, or the model has not the layers that it is for.
        RuntimeError: tensors are missing, unknown or of another shape (the message has both), or
            the model's branches are merged.

    Source: [ours].
    """
    bare = grafting.uncompiled(model)
    if isinstance(source, Mapping):
        layers = hydra_layers(bare)
        grafting.copy_in(source, _fitting(source, bare, layers, _config(bare)))
        return model
    config, state = grafting.read_as(source, _KEY, HydraConfig)
    if grafting.wraps(bare, HydraLinear):
        layers, own = hydra_layers(bare), _config(bare)
        grafting.copy_in(state, _fitting(state, bare, layers, own))
        if not config.learn_scale:
            for layer in layers.values():
                layer.set_scale(config.scale)
            if own is not None:
                _set_config(bare, replace(own, scale=config.scale))
        return model
    with grafting.trainable_on_error(bare):
        config, layers = _prepare(bare, config, whole=True)
        expected = _fitting(state, bare, layers, config)
    _install(bare, config, layers)
    grafting.copy_in(state, expected)
    return model


def merge(model: nn.Module, keep: bool = True) -> nn.Module:
    """Fold all branches into their layers: the same answers at the base model's cost.

    Args:
        model: a model with branches.
        keep: hold on to the layers' old weights, so that `unmerge` is exact to the bit.

    Returns:
        The same model; adapters stay on it, can still be saved, and can be unmerged.

    Raises:
        RuntimeError: they are merged already, or the merged weights do not fit a layer's type;
            nothing has changed then.
        TypeError: a layer is quantised.

    Source: [code, reparameterize of vtab1k/hydra.py], with each layer's own weight: the official
    one gives the attention's projection the MLP's.
    """
    layers = hydra_layers(model).values()
    for layer in layers:
        layer.folded()  # raises before anything has changed
    for layer in layers:
        layer.merge(keep)
    return model


def unmerge(model: nn.Module) -> nn.Module:
    """Take all branches out of their layers again, so that they can be trained on.

    Raises:
        RuntimeError: they are not merged, or the old weights were not kept and cannot be computed;
            nothing has changed then.

    Source: [ours].
    """
    layers = hydra_layers(model).values()
    for layer in layers:
        layer.check_unmerge()
    for layer in layers:
        layer.unmerge()
    return model


def merge_and_unload(model: nn.Module) -> nn.Module:
    """Fold all branches in and drop them: the model of before, with new weights, to deploy.

    Its parameters stay frozen. A layer without a bias gets one if its branches have biases; that
    is worth a warning, since its class does not expect one in a checkpoint.

    Returns:
        The same model, with its own layers and its own keys.

    Source: [code, reparameterize of vtab1k/hydra.py].
    """
    layers = hydra_layers(model)
    if not all(layer.merged for layer in layers.values()):
        merge(model, keep=False)
    grown = [name for name, layer in layers.items() if layer.bias_is_new]
    if grown:
        warnings.warn(
            f"{len(grown)} layers without a bias have got one, {grown[0]} for one: a checkpoint of "
            "the model has keys that its class does not know; with bias=False it would not",
            stacklevel=2,
        )
    return _take_off(model)


def unload(model: nn.Module) -> nn.Module:
    """Drop all branches and leave the model as it was before `apply`, frozen; the head keeps.

    Source: [ours].
    """
    layers = hydra_layers(model)
    if any(layer.merged for layer in layers.values()):
        unmerge(model)
    return _take_off(model)


def _own(layer: HydraLinear) -> list[tuple[str, nn.Parameter]]:
    return [(key, p) for key, p in layer.named_parameters() if not key.startswith("base.")]


def _config(model: nn.Module) -> HydraConfig | None:
    found = getattr(model, "hydra_config", None)
    return found if isinstance(found, HydraConfig) else None


def _set_config(model: nn.Module, config: HydraConfig) -> None:
    object.__setattr__(model, "hydra_config", config)  # a plain attribute, not a submodule


def _prepare(
    model: nn.Module, config: HydraConfig, whole: bool = False
) -> tuple[HydraConfig, dict[str, HydraLinear]]:
    """Check the config against the model and build the layers, without putting them there."""
    if grafting.wraps(model, HydraLinear):
        raise RuntimeError("model has Hydra's branches already: unload or merge_and_unload first")
    targets, saved = grafting.find(
        model, config.target_modules, config.modules_to_save, adapter="HydraLinear", whole=whole
    )
    wrapped = {id(layer): HydraLinear(layer, **config.options()) for layer in targets.values()}
    layers = {name: wrapped[id(layer)] for name, layer in targets.items()}
    return replace(config, target_modules=tuple(targets), modules_to_save=saved), layers


def _install(model: nn.Module, config: HydraConfig, layers: dict[str, HydraLinear]) -> None:
    model.requires_grad_(False)
    grafting.install(model, layers)
    for layer in layers.values():
        for _, parameter in _own(layer):
            parameter.requires_grad_(True)
    for name in config.modules_to_save:
        model.get_submodule(name).requires_grad_(True)
    _set_config(model, config)


def _take_off(model: nn.Module) -> nn.Module:
    grafting.take_off(model, HydraLinear)
    bare = grafting.uncompiled(model)
    if _config(bare) is not None:
        del bare.hydra_config
    return model


def _tensors(
    model: nn.Module, layers: Mapping[str, HydraLinear], config: HydraConfig | None
) -> dict[str, Tensor]:
    """What an adapter consists of, by name; a layer in two places counts under the first."""
    first: dict[int, str] = {}
    for name, layer in layers.items():
        first.setdefault(id(layer), name)
    found: dict[str, Tensor] = {
        f"{name}.{key}": parameter
        for name, layer in layers.items()
        if first[id(layer)] == name
        for key, parameter in _own(layer)
    }
    return found | grafting.saved_tensors(model, config.modules_to_save if config else ())


def _fitting(
    state: Mapping[str, Tensor],
    model: nn.Module,
    layers: Mapping[str, HydraLinear],
    config: HydraConfig | None,
) -> dict[str, Tensor]:
    """The model's tensors that `state` is for; raises unless it has them all and no others."""
    if any(layer.merged for layer in layers.values()):
        raise RuntimeError("the branches are merged: unmerge before loading others")
    expected = _tensors(model, layers, config)
    grafting.check_fit(state, expected)
    return expected
