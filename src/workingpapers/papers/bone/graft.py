"""Puts block matrices on a model of transformers, timm or anybody, and takes them off again.

The linear layers are wrapped where they stand and called as before; no forward is patched, so
attention kernels, masks and newer versions of the model stay as they are [ours].
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn

from workingpapers.kit.layers import grafting, sites
from workingpapers.papers.bone.config import BoneConfig
from workingpapers.papers.bone.method import BoneLinear
from workingpapers.papers.bone.official import Official, read_folder, write_folder

_KIND = "bone"  # of the config, in a file's metadata
_Prepared: TypeAlias = tuple[BoneConfig, dict[str, BoneLinear]]


def apply(model: nn.Module, config: BoneConfig) -> nn.Module:
    """Put block matrices on a model's linear layers, in place, and leave only them to train.

    The model answers as before until it is trained. Only what `requires_grad` belongs into the
    optimiser: `[p for p in model.parameters() if p.requires_grad]`.

    Args:
        model: any model; its layers are wrapped where they stand.
        config: which layers, and how. The model keeps it as `bone_config`, with full names.

    Returns:
        The same model.

    Raises:
        ValueError: something of `target_modules` or `modules_to_save` fits nothing (the message
            lists near misses), the two overlap, or r does not fit a layer (it says which).
        TypeError: a target is not linear, or the model is a linear layer itself.
        RuntimeError: the model has block matrices already. To put a second adapter on top of a
            first, as peft does with two active ones, merge and unload the first.

    Source: [code, BoneModel and MissModel of peft].
    """
    bare = grafting.uncompiled(model)
    with grafting.trainable_on_error(bare):
        prepared = _prepare(bare, config)
    _install(bare, *prepared)
    return model


def suggest_r(model: nn.Module, config: BoneConfig) -> int:
    """Find the largest r that divides both sizes of every layer that a config targets.

    Raises:
        ValueError: `target_modules` fits nothing.
        TypeError: a target is not linear.

    Source: [ours]; peft asks for such an r and does not say which.
    """
    targets = sites.find_linear(
        grafting.uncompiled(model), config.target_modules, argument="target_modules"
    )
    return math.gcd(*(size for layer in targets.values() for size in sites.features(layer)))


def bone_layers(model: nn.Module) -> dict[str, BoneLinear]:
    """The adapted layers of a model, by name.

    Raises:
        ValueError: it has none.

    Source: [ours].
    """
    found = grafting.wraps(model, BoneLinear)
    if not found:
        raise ValueError(f"model must have block matrices, got a {type(model).__name__} without")
    return found


def adapter_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that training changed, by name: block matrices and saved modules.

    They share the model's memory, as those of `state_dict` do.

    Shapes:
        `<layer>.block`, as in `BoneLinear`.

    Source: [code, the files of peft and RWKV-PEFT], under names of our own.
    """
    bare = grafting.uncompiled(model)
    return {key: tensor.detach() for key, tensor in _tensors(bare, bone_layers(bare)).items()}


def save_adapter(model: nn.Module, path: str | os.PathLike[str], kind: str | None = None) -> None:
    """Write the adapter alone: as one safetensors file with its config, or as peft's folder.

    Args:
        model: a model that `apply` has adapted.
        path: a file, or a folder for peft.
        kind: "MISS" writes the folder that peft loads today, "BONE" that of peft 0.14 to 0.18.

    Raises:
        RuntimeError: the layers were not put on by `apply`, so that there is no config to write.
        ValueError: a mode that peft has not.

    Source: [code, save_pretrained of peft]; the single file is [ours].
    """
    bare = grafting.uncompiled(model)
    state, config = adapter_state_dict(bare), _config(bare)
    if config is None:
        raise RuntimeError("model must be adapted by apply to be saved, it has no config")
    if kind is not None:
        write_folder(path, config, state, kind)
    else:
        grafting.write(path, state, _KIND, asdict(config))


def load_adapter(
    model: nn.Module, source: str | os.PathLike[str] | Official | Mapping[str, Tensor]
) -> nn.Module:
    """Load an adapter, all of it or nothing.

    Args:
        model: a bare model, which then gets block matrices, or one that has them.
        source: a file of `save_adapter`, a folder of peft's Bone or MiSS, what `from_official`
            answers, or, for a model that has block matrices, tensors as `adapter_state_dict` has.

    Returns:
        The same model.

    Shapes:
        as in `adapter_state_dict`.

    Raises:
        ValueError: the file is not an adapter's, its mode or r are not those of the model's block
            matrices, or the model has not the layers that it is for.
        RuntimeError: tensors are missing, unknown or of another shape (the message has both), or
            the model's adapter is merged.

    Source: [code, PeftModel.from_pretrained]; [ours].
    """
    bare = grafting.uncompiled(model)
    if isinstance(source, Official):
        config, state = source.config, source.adapter
    elif isinstance(source, Mapping):
        _load(bare, source, bone_layers(bare))
        return model
    elif Path(source).is_dir():
        config, state, _ = read_folder(source)
    else:
        config, state = grafting.read_as(source, _KIND, BoneConfig)
    layers = grafting.wraps(bare, BoneLinear)
    if layers:
        for name, layer in layers.items():
            if (layer.mode, layer.r, layer.mini_r) != (config.mode, config.r, config.mini_r):
                raise ValueError(
                    f"source must hold mode {layer.mode!r} with r={layer.r}, as {name} has it, "
                    f"got {config.mode!r} with r={config.r}"
                )
        _load(bare, state, layers)
        return model
    with grafting.trainable_on_error(bare):
        config, layers = _prepare(bare, config, whole=True)
        grafting.check_fit(state, _tensors(bare, layers, config))
    _install(bare, config, layers)
    _load(bare, state, layers)
    return model


def merge(model: nn.Module, keep: bool = True, safe: bool = True) -> nn.Module:
    """Put all updates into their layers: the same answers at the base model's cost.

    Args:
        model: a model with block matrices.
        keep: hold on to the layers' old weights, so that `unmerge` is exact to the bit.
        safe: refuse weights that are not finite.

    Returns:
        The same model; the adapter stays on it, can still be saved, and can be unmerged.

    Raises:
        RuntimeError: it is merged already.
        ValueError: a merged weight is not finite. Nothing has changed in either case.
        TypeError: a layer is quantised.

    Source: equation (5); [code, merge of peft], whose safe form of bone writes before it tests
    where r does not divide the inputs.
    """
    layers = bone_layers(model)
    done = []
    try:
        for name, layer in layers.items():
            try:
                layer.merge(keep=True, safe=safe)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            done.append(layer)
    except Exception:
        for layer in done:
            layer.unmerge()
        raise
    if not keep:
        for layer in done:
            layer.forget()
    return model


def unmerge(model: nn.Module) -> nn.Module:
    """Take all updates out of their layers again, so that they can be trained on.

    Raises:
        RuntimeError: they are not merged, or the old weights were not kept and cannot be computed;
            nothing has changed then.

    Source: equation (9); [code, unmerge of peft].
    """
    layers = bone_layers(model).values()
    for layer in layers:
        layer.check_unmerge()
    for layer in layers:
        layer.unmerge()
    return model


def merge_and_unload(model: nn.Module, safe: bool = True) -> nn.Module:
    """Put all updates in and drop the adapter: the model of before, with new weights, to deploy.

    Its parameters stay frozen.

    Returns:
        The same model, with its own layers and its own keys.

    Raises:
        ValueError: a merged weight is not finite; nothing has changed then.

    Source: [code, merge_and_unload of peft].
    """
    if not all(layer.merged for layer in bone_layers(model).values()):
        merge(model, keep=False, safe=safe)
    return _take_off(model)


def unload(model: nn.Module) -> nn.Module:
    """Drop the adapter and leave the layers as before `apply`, frozen; saved modules keep.

    Source: [ours].
    """
    if any(layer.merged for layer in bone_layers(model).values()):
        unmerge(model)
    return _take_off(model)


@contextmanager
def disable(model: nn.Module) -> Iterator[nn.Module]:
    """Let the model answer without its adapter inside the block; saved modules stay trained.

    Raises:
        RuntimeError: the adapter is merged.

    Source: [code, disable_adapter of peft].
    """
    layers = list(bone_layers(model).values())
    if any(layer.merged for layer in layers):
        raise RuntimeError("the adapter is merged, so it cannot be disabled: unmerge first")
    before = [layer.enabled for layer in layers]
    try:
        for layer in layers:
            layer.enabled = False
        yield model
    finally:
        for layer, enabled in zip(layers, before, strict=True):
            layer.enabled = enabled


def _config(model: nn.Module) -> BoneConfig | None:
    found = getattr(model, "bone_config", None)
    return found if isinstance(found, BoneConfig) else None


def _prepare(model: nn.Module, config: BoneConfig, whole: bool = False) -> _Prepared:
    """Check the config against the model and build the layers, without putting them there."""
    if grafting.wraps(model, BoneLinear):
        raise RuntimeError("model has block matrices already: unload or merge_and_unload first")
    targets, saved = grafting.find(
        model, config.target_modules, config.modules_to_save, adapter="BoneLinear", whole=whole
    )
    wrapped: dict[int, BoneLinear] = {}
    for name, layer in targets.items():
        if id(layer) not in wrapped:
            try:
                wrapped[id(layer)] = BoneLinear(layer, **config.options())
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    layers = {name: wrapped[id(layer)] for name, layer in targets.items()}
    return replace(config, target_modules=tuple(targets), modules_to_save=saved), layers


def _install(model: nn.Module, config: BoneConfig, layers: dict[str, BoneLinear]) -> None:
    model.requires_grad_(False)
    grafting.install(model, layers)
    for layer in layers.values():
        layer.block.requires_grad_(True)
    for name in config.modules_to_save:
        model.get_submodule(name).requires_grad_(True)
    object.__setattr__(model, "bone_config", config)  # a plain attribute, not a submodule


def _take_off(model: nn.Module) -> nn.Module:
    grafting.take_off(model, BoneLinear)
    bare = grafting.uncompiled(model)
    if _config(bare) is not None:
        del bare.bone_config
    return model


def _tensors(
    model: nn.Module, layers: Mapping[str, BoneLinear], config: BoneConfig | None = None
) -> dict[str, Tensor]:
    """What an adapter consists of, by name; a layer in two places counts under the first."""
    first: dict[int, str] = {}
    for name, layer in layers.items():
        first.setdefault(id(layer), name)
    found: dict[str, Tensor] = {f"{name}.block": layers[name].block for name in first.values()}
    config = config or _config(model)
    return found | grafting.saved_tensors(model, config.modules_to_save if config else ())


def _load(model: nn.Module, state: Mapping[str, Tensor], layers: Mapping[str, BoneLinear]) -> None:
    if any(layer.merged for layer in layers.values()):
        raise RuntimeError("the adapter is merged: unmerge before loading another")
    grafting.copy_in(state, _tensors(model, layers))
