"""AdapterHub's IA3: `architecture: "lora"` with `composition_mode: "scale"`. y = (W x + b) * alpha * lora_B.

Unlike the IA3 of the paper, it always scales outputs: of keys and values, and of the feed-forward's first layer before
its activation. A fused projection has a vector for the chosen ones of its thirds q, k, v; the others are multiplied by
alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adapter_export.checkpoints.adapter import Checkpoint
from adapter_export.checkpoints.adapterhub.config import CONFIG
from adapter_export.checkpoints.adapterhub.interface import Interface
from adapter_export.checkpoints.adapterhub.lora_config import (
    ARCHITECTURE,
    MODE,
    SCALE,
    SETTINGS,
    THIRDS,
    is_mode,
    parse,
)
from adapter_export.checkpoints.adapterhub.lora_modules import (
    check_modules,
    features_at,
    modules_of,
    tensors_by_module,
)
from adapter_export.errors import InputError
from adapter_export.methods.contract import SiteAdapter
from adapter_export.methods.ia3 import IA3Operator
from adapter_export.modelinfo import ModelInfo
from adapter_export.reading.fields import unknown_fields
from adapter_export.sites import Port, Site

LIBRARY_METHOD = "lora"
EXPECTED = f"{ARCHITECTURE!r} with {MODE} {SCALE!r} (IA3)"
_VECTOR = "lora_B"


def recognises(config: Mapping[str, Any]) -> bool:
    """Returns whether these are settings of LoRA that scales instead of adding."""
    return is_mode(config, SCALE)


def why_not(config: Mapping[str, Any]) -> str | None:
    """Returns None, as the module of LoRA says which modes this architecture has."""
    return None


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
    settings = parse(config, checkpoint, path)
    if settings.rank != 1:
        raise InputError(f"{path}: field 'r': expected 1 with {MODE} {SCALE!r}, found {settings.rank}")
    vectors = tensors_by_module(checkpoint, info, (_VECTOR,), "IA3")
    expected = modules_of(settings, path, info, interface)
    check_modules(checkpoint, info, vectors, expected)
    found = {}
    for module, thirds in expected.items():
        site, vector = Site(module, Port.OUTPUT), vectors[module][_VECTOR]
        features = features_at(checkpoint, info, site, thirds).outputs
        size = features // len(THIRDS) * len(thirds) if thirds else features
        if vector.shape != (size, 1):
            raise InputError(
                f"{checkpoint.folder}: tensor '{module}.loras.*.{_VECTOR}': expected shape ({size}, 1) for this base "
                f"model and config, found {vector.shape}"
            )
        whole = _whole(vector.reshape(-1), thirds, features) if thirds else vector.reshape(-1)
        scale = settings.scale
        found[site] = SiteAdapter(IA3Operator(), {"l": whole if scale == 1 else whole * np.float32(scale)})
    return found


def notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns notes for the user on fields that are set and that the library does not have. The library ignores
    them.
    """
    return unknown_fields(config, CONFIG, "IA3", SETTINGS)


def _whole(vector: np.ndarray, chosen: tuple[str, ...], features: int) -> np.ndarray:
    """Returns a vector for all thirds, of one for the chosen thirds, with ones for the others."""
    third = features // len(THIRDS)
    pieces = dict(zip(chosen, vector.reshape(len(chosen), third), strict=True))
    return np.concatenate([pieces.get(name, np.ones(third, vector.dtype)) for name in THIRDS])
