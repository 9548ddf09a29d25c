"""AdapterHub's IA3: `architecture: "lora"` with `composition_mode: "scale"`. y = (W x + b) * alpha * lora_B.

Unlike the IA3 of the paper, it always scales outputs: of keys and values, and of the feed-forward's first layer before
its activation. A fused projection has a vector for the chosen ones of its thirds q, k, v; the others are multiplied by
alpha.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.architectures.layers import layers_of
from adapter_export.architectures.record import Role
from adapter_export.architectures.registry import facts
from adapter_export.architectures.renames import canonical
from adapter_export.checkpoints.adapter import Checkpoint, site_features
from adapter_export.checkpoints.adapterhub.config import CONFIG, MAX_FACTOR
from adapter_export.checkpoints.adapterhub.interface import Interface
from adapter_export.errors import InputError
from adapter_export.methods.contract import SiteAdapter
from adapter_export.methods.ia3 import IA3Operator
from adapter_export.modelinfo import ModelInfo
from adapter_export.reading.fields import field, unknown_fields
from adapter_export.reading.shown import shortened
from adapter_export.sites import Port, Site, strip_prefix

LIBRARY_METHOD = "lora"
EXPECTED = "'lora' with composition_mode 'scale' (IA3)"
_KEY = re.compile(r"(?P<module>.+?)\.loras\.(?P<name>[^.]+)\.(?P<part>.+)")
_THIRDS = ("q", "k", "v")
# Kinds of modules, in addition to these three.
_FUSED, _INTERMEDIATE, _OUTPUT = "fused", "intermediate", "output"
# Versions before this one divided by r by mistake. The library corrects this when it loads their checkpoints.
_FAULTY_BEFORE = (1, 1)
_VERSION = re.compile(r"adapters\.(\d+)\.(\d+)")
# All settings of the library.
SETTINGS = frozenset(
    {
        "alpha", "architecture", "attn_matrices", "composition_mode", "dropout", "dtype", "init_weights",
        "init_weights_seed", "intermediate_lora", "leave_out", "output_lora", "r", "selfattn_lora", "use_dora",
        "use_gating", "vera_b", "vera_d",
    }
)  # fmt: skip


def recognises(config: Mapping[str, Any]) -> bool:
    """Returns whether these are settings of LoRA that scales instead of adding."""
    return config.get("architecture") == "lora" and config.get("composition_mode") == "scale"


def why_not(config: Mapping[str, Any]) -> str | None:
    """Returns why settings of LoRA that adds are not supported; None for any other settings."""
    if config.get("architecture") != "lora":
        return None
    mode = shortened(config.get("composition_mode", "add"))
    return f"field 'composition_mode': {mode} (LoRA) is not supported, expected 'scale' (IA3)"


def site_adapters(
    checkpoint: Checkpoint, config: dict[str, Any], info: ModelInfo, interface: Interface | None
) -> dict[Site, SiteAdapter]:
    """Returns IA3 vectors by site.

    Args:
        checkpoint: The checkpoint.
        config: The adapter's own settings.
        info: Description of the base model.
        interface: The checkpoint's description of its model, or None.

    Raises:
        InputError: The settings are of LoRA that adds, or something does not fit. The error names the field or tensor.
    """
    path = checkpoint.folder / CONFIG
    matrices = _check(config, path)
    alpha = _alpha(checkpoint, config, path)
    vectors = _vectors(checkpoint, info)
    expected = _expected(config, path, info, matrices, interface)
    if surplus := sorted(set(vectors) - set(expected)):
        raise InputError(
            f"{checkpoint.folder}: tensors at {surplus[0]!r}: no such place for this config in a {info.model_type} "
            f"model ({len(surplus)} in all)"
        )
    if missing := sorted(set(expected) - set(vectors)):
        raise InputError(f"{checkpoint.folder}: tensors at {missing[0]!r} are missing ({len(missing)} places in all)")
    found = {}
    for module, chosen in expected.items():
        site, vector = Site(module, Port.OUTPUT), vectors[module]
        features = site_features(checkpoint, info, site).outputs
        if chosen and features % len(_THIRDS):
            raise InputError(f"{path}: module {module!r}: expected a fused projection of three equal parts")
        size = features // len(_THIRDS) * len(chosen) if chosen else features
        if vector.shape != (size, 1):
            raise InputError(
                f"{checkpoint.folder}: tensor '{module}.loras.*.lora_B': expected shape ({size}, 1) for this base "
                f"model and config, found {vector.shape}"
            )
        whole = _whole(vector.reshape(-1), chosen, features) if chosen else vector.reshape(-1)
        found[site] = SiteAdapter(IA3Operator(), {"l": whole if alpha == 1 else whole * np.float32(alpha)})
    return found


def notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns notes for the user on fields that are set and that the library does not have. The library ignores
    them.
    """
    return unknown_fields(config, CONFIG, "IA3", SETTINGS)


def _check(config: dict[str, Any], path: Path) -> tuple[str, ...]:
    """Returns the attention matrices that are scaled. Raises InputError for settings that are not IA3."""
    reasons = {
        "use_gating": "the library averages the gate over all positions, padding too",
        "use_dora": "DoRA is no IA3",
        "vera_d": "VeRA is no IA3",
        "vera_b": "VeRA is no IA3",
    }
    for name, reason in reasons.items():
        if config.get(name) not in (None, False):
            raise InputError(f"{path}: field {name!r}: {shortened(config[name])} is not supported: {reason}")
    if (rank := field(config, path, "r", int, 8)) != 1:
        raise InputError(f"{path}: field 'r': expected 1 with composition_mode 'scale', found {rank}")
    matrices = field(config, path, "attn_matrices", list, ["q", "v"])
    if wrong := [name for name in matrices if name not in _THIRDS]:
        raise InputError(f"{path}: field 'attn_matrices': expected of q, k and v, found {shortened(wrong[0])}")
    return tuple(name for name in _THIRDS if name in matrices)


def _alpha(checkpoint: Checkpoint, config: dict[str, Any], path: Path) -> float:
    alpha = field(config, path, "alpha", (int, float), 8)
    if isinstance(alpha, bool) or not abs(alpha) < MAX_FACTOR:
        raise InputError(f"{path}: field 'alpha': expected a number, found {shortened(alpha)}")
    version = _VERSION.match(str(checkpoint.config.get("version", "")))
    faulty = version is not None and (int(version[1]), int(version[2])) < _FAULTY_BEFORE
    return 1.0 if faulty else float(alpha)


def _vectors(checkpoint: Checkpoint, info: ModelInfo) -> dict[str, np.ndarray]:
    """Returns lora_B by module, in today's paths without the model's prefix."""
    vectors, names = {}, set()
    for name, tensor in checkpoint.tensors.items():
        match = _KEY.fullmatch(name)
        if match is None or match["part"] != "lora_B":
            raise InputError(f"{checkpoint.folder}: tensor {name!r}: not a tensor of IA3")
        names.add(match["name"])
        if len(names) > 1:
            raise InputError(
                f"{checkpoint.folder}: tensor {name!r}: expected one adapter in the file, found {sorted(names)}"
            )
        vectors[canonical(info.model_type, strip_prefix(match["module"], info.prefix))] = tensor
    return vectors


def _expected(
    config: dict[str, Any], path: Path, info: ModelInfo, matrices: tuple[str, ...], interface: Interface | None
) -> dict[str, tuple[str, ...]]:
    """Returns the modules that this config scales, each with the thirds that are scaled if it is fused."""
    if interface is None and not facts(info.model_type).hub.known:
        raise InputError(f"{path}: field 'architecture': 'lora': no table of the modules of {info.model_type!r}")
    left_out = field(config, path, "leave_out", list, None) or []
    kinds: dict[str, tuple[str, ...]] = {}
    if field(config, path, "selfattn_lora", bool, True):
        kinds |= {_FUSED: matrices} if matrices else {}
        kinds |= dict.fromkeys(matrices, ())
    if field(config, path, "intermediate_lora", bool, False):
        kinds[_INTERMEDIATE] = ()
    if field(config, path, "output_lora", bool, False):
        kinds[_OUTPUT] = ()
    every = _by_table(info) if interface is None else _by_interface(info, interface)
    return {
        module: thirds
        for number, layer in enumerate(every)
        if number not in left_out
        for kind, thirds in kinds.items()
        for module in layer.get(kind, ())
    }


def _by_table(info: ModelInfo) -> Iterator[dict[str, list[str]]]:
    """Yields for each layer its modules by kind: attention matrices, fused ones, and the two of the feed-forward."""
    first, second = (Role.DOWN, Role.UP) if facts(info.model_type).hub.intermediate_is_down else (Role.UP, Role.DOWN)
    for layer in layers_of(info.model_type, info.modules):
        roles = {_INTERMEDIATE: first, _OUTPUT: second}
        if layer.stack.fused:
            roles[_FUSED] = Role.QUERY
        else:
            roles |= {"q": Role.QUERY, "k": Role.KEY, "v": Role.VALUE}
        yield {kind: layer.linear(role) for kind, role in roles.items()}


def _by_interface(info: ModelInfo, interface: Interface) -> Iterator[dict[str, list[str]]]:
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


def _whole(vector: np.ndarray, chosen: tuple[str, ...], features: int) -> np.ndarray:
    """Returns a vector for all thirds, of one for the chosen thirds, with ones for the others."""
    third = features // len(_THIRDS)
    pieces = dict(zip(chosen, vector.reshape(len(chosen), third), strict=True))
    return np.concatenate([pieces.get(name, np.ones(third, vector.dtype)) for name in _THIRDS])
