"""AdapterHub's LoRA: `architecture: "lora"` with `composition_mode: "add"`. y = W x + b + alpha / r * B A x.

Tensors are `lora_A` (r, in) and `lora_B` (out, r). A fused projection has such a pair for each chosen third (q, k, v)
of its outputs, all n pairs in two tensors: `lora_A` (n r, in) and `lora_B` (n out / 3, r).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adapter_export.checkpoints.adapter import Checkpoint
from adapter_export.checkpoints.adapterhub.config import CONFIG
from adapter_export.checkpoints.adapterhub.interface import Interface
from adapter_export.checkpoints.adapterhub.lora_config import (
    ADD,
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
from adapter_export.methods.lora import LoRAOperator
from adapter_export.modelinfo import ModelInfo
from adapter_export.reading.fields import unknown_fields
from adapter_export.reading.shown import shortened
from adapter_export.sites import Port, Site

LIBRARY_METHOD = "lora"
EXPECTED = f"{ARCHITECTURE!r} with {MODE} {ADD!r} (LoRA)"
_A, _B = "lora_A", "lora_B"


def recognises(config: Mapping[str, Any]) -> bool:
    """Returns whether these are settings of LoRA that adds, which is the default."""
    return is_mode(config, ADD)


def why_not(config: Mapping[str, Any]) -> str | None:
    """Returns why settings of this architecture have no method; None for any other settings."""
    if config.get("architecture") != ARCHITECTURE:
        return None
    return f"field {MODE!r}: expected {ADD!r} (LoRA) or {SCALE!r} (IA3), found {shortened(config.get(MODE))}"


def site_adapters(
    checkpoint: Checkpoint, config: dict[str, Any], info: ModelInfo, interface: Interface | None
) -> dict[Site, SiteAdapter]:
    """Returns the matrices by site, with alpha / r as their strength."""
    path = checkpoint.folder / CONFIG
    settings = parse(config, checkpoint, path)
    found = tensors_by_module(checkpoint, info, (_A, _B), "LoRA")
    expected = modules_of(settings, path, info, interface)
    check_modules(checkpoint, info, found, expected)
    sites = {}
    for module, thirds in expected.items():
        site = Site(module, Port.BRANCH)
        features = features_at(checkpoint, info, site, thirds)
        pairs = len(thirds) or 1
        outputs = features.outputs // len(THIRDS) * pairs if thirds else features.outputs
        shapes = {_A: (settings.rank * pairs, features.inputs), _B: (outputs, settings.rank)}
        for part, shape in shapes.items():
            if (actual := found[module][part].shape) != shape:
                raise InputError(
                    f"{checkpoint.folder}: tensor '{module}.loras.*.{part}': expected shape {shape} for this base "
                    f"model and config, found {actual}"
                )
        a, b = found[module][_A], found[module][_B]
        whole = _whole(b, thirds) if thirds else b.T
        sites[site] = SiteAdapter(LoRAOperator(), {"a": a.T, "b": whole}, strength=settings.scale)
    return sites


def notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns notes for the user on fields that are set and that the library does not have. The library ignores
    them.
    """
    return unknown_fields(config, CONFIG, "LoRA", SETTINGS)


def _whole(b: np.ndarray, thirds: tuple[str, ...]) -> np.ndarray:
    """Returns B (n r, out) of a fused projection, of the pairs' own, one above the other (n out / 3, r).

    The rows of a pair are zero outside its third of the outputs.
    """
    rank, third = b.shape[1], len(b) // len(thirds)
    whole = np.zeros((len(thirds) * rank, len(THIRDS) * third), b.dtype)
    for pair, name in enumerate(thirds):
        column = THIRDS.index(name) * third
        whole[pair * rank : (pair + 1) * rank, column : column + third] = b[pair * third : (pair + 1) * third].T
    return whole
