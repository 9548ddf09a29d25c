"""The modules that AdapterHub's LoRA and IA3 adapt, and the tensors that a checkpoint has for them.

Tensors are `[prefix.]<module>.loras.<name>.<part>`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from adapter_export.architectures.layers import layers_of
from adapter_export.architectures.record import Role
from adapter_export.architectures.registry import facts
from adapter_export.architectures.renames import canonical
from adapter_export.checkpoints.adapter import Checkpoint, site_features
from adapter_export.checkpoints.adapterhub.config import CONFIG
from adapter_export.checkpoints.adapterhub.interface import Interface
from adapter_export.checkpoints.adapterhub.lora_config import ARCHITECTURE, THIRDS, LoRAConfig
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Features, Site, strip_prefix

_KEY = re.compile(r"(?P<module>.+?)\.loras\.(?P<name>[^.]+)\.(?P<part>.+)")
# Kinds of modules, in addition to the three attention matrices.
_FUSED, _INTERMEDIATE, _OUTPUT = "fused", "intermediate", "output"

Parts = dict[str, np.ndarray]


def tensors_by_module(checkpoint: Checkpoint, info: ModelInfo, parts: Collection[str], kind: str) -> dict[str, Parts]:
    """Returns the tensors by module, in today's paths without the model's prefix, and by part.

    Args:
        checkpoint: The checkpoint.
        info: Description of the base model.
        parts: The parts that every module has.
        kind: What has these parts, for error messages.

    Raises:
        InputError: A tensor is missing, is of anything else, or is of a second adapter.
    """
    found: dict[str, Parts] = {}
    names = set()
    for name, tensor in checkpoint.tensors.items():
        match = _KEY.fullmatch(name)
        if match is None or match["part"] not in parts:
            raise InputError(f"{checkpoint.folder}: tensor {name!r}: not a tensor of {kind}")
        names.add(match["name"])
        if len(names) > 1:
            raise InputError(
                f"{checkpoint.folder}: tensor {name!r}: expected one adapter in the file, found {sorted(names)}"
            )
        module = canonical(info.model_type, strip_prefix(match["module"], info.prefix))
        found.setdefault(module, {})[match["part"]] = tensor
    for module, tensors in found.items():
        if missing := sorted(set(parts) - set(tensors)):
            raise InputError(f"{checkpoint.folder}: tensor '{module}.loras.*.{missing[0]}' is missing")
    return found


def check_modules(checkpoint: Checkpoint, info: ModelInfo, found: Collection[str], expected: Collection[str]) -> None:
    """Checks that a checkpoint has tensors at exactly the modules of its config. Raises InputError if not."""
    if surplus := sorted(set(found) - set(expected)):
        raise InputError(
            f"{checkpoint.folder}: tensors at {surplus[0]!r}: no such place for this config in a {info.model_type} "
            f"model ({len(surplus)} in all)"
        )
    if missing := sorted(set(expected) - set(found)):
        raise InputError(f"{checkpoint.folder}: tensors at {missing[0]!r} are missing ({len(missing)} places in all)")


def modules_of(
    config: LoRAConfig, path: Path, info: ModelInfo, interface: Interface | None
) -> dict[str, tuple[str, ...]]:
    """Returns the modules that a config adapts, each with the thirds that are adapted if it is a fused projection.

    Args:
        config: The config.
        path: The file that it is from.
        info: Description of the base model.
        interface: The checkpoint's description of its model, or None.

    Raises:
        InputError: The library's names for the modules of this architecture are not known.
    """
    if interface is None and not facts(info.model_type).hub.known:
        raise InputError(
            f"{path}: field 'architecture': {ARCHITECTURE!r}: no table of the modules of {info.model_type!r}"
        )
    kinds: dict[str, tuple[str, ...]] = {_FUSED: config.matrices} if config.matrices else {}
    kinds |= dict.fromkeys(config.matrices, ())
    kinds |= {_INTERMEDIATE: ()} if config.intermediate else {}
    kinds |= {_OUTPUT: ()} if config.output else {}
    every = _by_table(info) if interface is None else _by_interface(info, interface)
    return {
        module: thirds
        for number, layer in enumerate(every)
        if number not in config.leave_out
        for kind, thirds in kinds.items()
        for module in layer.get(kind, ())
    }


def features_at(checkpoint: Checkpoint, info: ModelInfo, site: Site, thirds: Collection[str]) -> Features:
    """Returns the sizes at a site. Raises InputError if it should be a fused projection, and is not one."""
    features = site_features(checkpoint, info, site)
    if thirds and features.outputs % len(THIRDS):
        raise InputError(
            f"{checkpoint.folder / CONFIG}: module {site.module!r}: expected a fused projection of three equal parts"
        )
    return features


def _by_table(info: ModelInfo) -> Iterator[Mapping[str, list[str]]]:
    """Yields for each layer its modules by kind: attention matrices, fused ones, and the two of the feed-forward."""
    first, second = (Role.DOWN, Role.UP) if facts(info.model_type).hub.intermediate_is_down else (Role.UP, Role.DOWN)
    for layer in layers_of(info.model_type, info.modules):
        roles = {_INTERMEDIATE: first, _OUTPUT: second}
        if layer.stack.fused:
            roles[_FUSED] = Role.QUERY
        else:
            roles |= dict(zip(THIRDS, (Role.QUERY, Role.KEY, Role.VALUE), strict=True))
        yield {kind: layer.linear(role) for kind, role in roles.items()}


def _by_interface(info: ModelInfo, interface: Interface) -> Iterator[Mapping[str, list[str]]]:
    """Does the same as `_by_table`, for a model that the checkpoint describes."""
    fused = {_FUSED: interface.attn_qkv_proj}
    single = {"q": interface.attn_q_proj, "k": interface.attn_k_proj, "v": interface.attn_v_proj}
    attention = single if interface.attn_qkv_proj is None else fused
    both = [name for name in (interface.layer_self_attn, interface.layer_cross_attn) if name is not None]
    for layer in interface.layers(info):
        paths = {
            kind: [interface.below(info, layer, parent, name) for parent in both] for kind, name in attention.items()
        }
        paths[_INTERMEDIATE] = [interface.below(info, layer, interface.layer_intermediate_proj)]
        paths[_OUTPUT] = [interface.below(info, layer, interface.layer_output_proj)]
        yield {kind: [path for path in found if path is not None] for kind, found in paths.items()}
