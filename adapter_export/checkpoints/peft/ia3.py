"""IA3 in PEFT's format.

Tensors are `<module path>.ia3_l`: (out, 1) at an output, (1, in) at an input, and (1, channels, 1, 1[, 1]) at both for
convolutions. The config's `feedforward_modules` says which modules are scaled at their input.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.checkpoints.adapter import OUTPUT_LAYERS, Adapter, Checkpoint, site_features
from adapter_export.checkpoints.peft.config import CONFIG, Patterns, PeftConfig, patterns
from adapter_export.checkpoints.peft.defaults import DEFAULTS
from adapter_export.checkpoints.peft.matching import scaled_at_input, targeted
from adapter_export.checkpoints.peft.targets import bounded_match, check_targets, or_default, path_of
from adapter_export.errors import InputError
from adapter_export.methods.contract import SiteAdapter
from adapter_export.methods.ia3 import IA3Operator
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Port, Site

PEFT_TYPE = "IA3"
FIELDS = frozenset({"feedforward_modules"})
# fan_in_fan_out says how the layer stores its weight. PEFT looks at the layer instead, and warns of a difference.
INERT: Mapping[str, type] = {"fan_in_fan_out": bool, "init_ia3_weights": bool}
_VECTOR = ".ia3_l"
KEY = re.compile(r"(?P<module>.*)\.ia3_l")
ADAPTER_NAME = re.compile(r"(?<=\.ia3_l)\.[^.]+$")


def check(config: Mapping[str, Any], path: Path) -> None:
    """Checks the config's `feedforward_modules`."""
    patterns(config, path, "feedforward_modules")


def site_adapters(
    checkpoint: Checkpoint, config: PeftConfig, info: ModelInfo
) -> tuple[dict[Site, SiteAdapter], tuple[str, ...]]:
    """Returns the vectors by site, and notes on vectors without effect."""
    vectors = {match["module"]: tensor for name, tensor in checkpoint.tensors.items() if (match := KEY.fullmatch(name))}
    if not vectors:
        raise InputError(f"{checkpoint.folder}: expected tensors named *{_VECTOR}, found none")
    default = DEFAULTS.get(info.model_type)
    given = patterns(checkpoint.config, checkpoint.folder / CONFIG, "feedforward_modules")
    feedforward = or_default(given, default.inputs if default else None, "feedforward_modules", checkpoint, info)
    at_input = bounded_match(checkpoint, "feedforward_modules", lambda: scaled_at_input(vectors, feedforward))
    unread = [name for name in vectors if path_of(name, info) in info.unread]
    found = {}
    for name, vector in vectors.items():
        if name not in unread:
            site = Site(path_of(name, info), Port.INPUT if name in at_input else Port.OUTPUT)
            found[site] = _at_site(checkpoint, info, site, name, vector)
    targets = or_default(config.targets, default.targets if default else None, "target_modules", checkpoint, info)
    check_targets(checkpoint, config, targets, info, vectors, _VECTOR)
    notes = (
        f"tensor {name + _VECTOR!r} has no effect: no output reads its module, which the base model's checkpoint lacks"
        for name in unread
    )
    return found, tuple(notes)


def write(adapter: Adapter, info: ModelInfo) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the vectors in PEFT's shapes, and config fields that name exactly the adapter's sites."""
    tensors = {}
    for site, site_adapter in adapter.sites.items():
        vector = site_adapter.tensors["l"]
        first = site.port is Port.INPUT or vector.ndim > 1
        tensors[f"{site.module}{_VECTOR}"] = vector[None] if first else vector[:, None]
    targets, feedforward = _placement(adapter, info)
    return tensors, {
        "feedforward_modules": feedforward,
        "init_ia3_weights": True,
        "target_modules": targets,
    }


def _at_site(checkpoint: Checkpoint, info: ModelInfo, site: Site, name: str, vector: np.ndarray) -> SiteAdapter:
    if site.module in info.head:
        raise InputError(
            f"{checkpoint.folder}: tensor {name + _VECTOR!r} scales the task head, which is swapped as a whole; train "
            f"again with {site.module!r} in PEFT's modules_to_save or exclude_modules"
        )
    if site.module in OUTPUT_LAYERS and site.module not in info.modules:
        raise InputError(
            f"{checkpoint.folder}: tensor {name + _VECTOR!r} scales the output layer, which is not supported in any "
            f"mode, merged or not; train again with {site.module!r} in PEFT's exclude_modules"
        )
    features = site_features(checkpoint, info, site).outputs
    if site.module not in info.inputs:
        raise InputError(f"{checkpoint.folder}: tensor {name + _VECTOR!r}: expected a linear layer or a convolution")
    spatial = info.convolutions.get(site.module, 0)
    shape: tuple[int, ...] = (1, features) if site.port is Port.INPUT else (features, 1)
    if spatial:
        shape = (1, features, *(1,) * spatial)
    if vector.shape != shape:
        # The weight of a convolution has the inputs of one group only.
        grouped = spatial and site.port is Port.INPUT and vector.size % features == 0
        hint = "; the inputs of a convolution in groups are not merged, only exported by `onnx`" if grouped else ""
        raise InputError(
            f"{checkpoint.folder}: tensor {name + _VECTOR!r}: expected shape {shape} for this base model, "
            f"found {vector.shape}{hint}"
        )
    return SiteAdapter(IA3Operator(spatial), {"l": vector.reshape(features, *(1,) * spatial)})


def _placement(adapter: Adapter, info: ModelInfo) -> tuple[list[str] | str, list[str] | str]:
    """Returns target_modules and feedforward_modules that name exactly the adapter's sites."""
    targets = sorted(site.module for site in adapter.sites)
    feedforward = sorted(site.module for site in adapter.sites if site.port is Port.INPUT)
    if _means(tuple(targets), tuple(feedforward), adapter, info):
        return targets, feedforward
    # A name is the end of another name. Regular expressions match whole names.
    return _expression(targets, info), _expression(feedforward, info) if feedforward else []


def _means(targets: Patterns, feedforward: Patterns, adapter: Adapter, info: ModelInfo) -> bool:
    """Returns whether PEFT would find exactly the adapter's sites by these fields."""
    prefix = f"{info.prefix}." if info.nested else ""
    ports = {f"{prefix}{site.module}": site.port for site in adapter.sites}
    named = targeted((f"{prefix}{module}" for module in info.modules if module), targets)
    at_input = {name for name, port in ports.items() if port is Port.INPUT}
    return named == set(ports) and scaled_at_input(ports, feedforward) == at_input


def _expression(modules: Iterable[str], info: ModelInfo) -> str:
    return rf"({re.escape(info.prefix)}\.)?({'|'.join(map(re.escape, modules))})"
