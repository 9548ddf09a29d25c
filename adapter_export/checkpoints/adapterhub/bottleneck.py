"""Bottleneck adapters in AdapterHub's format.

Tensors are `[prefix.]<place>.adapters.<name>.adapter_{down.0,up}.{weight,bias}`, with matrices (out, in).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.architectures.layers import layers_of
from adapter_export.architectures.registry import facts
from adapter_export.architectures.renames import former
from adapter_export.checkpoints.adapter import Adapter, Checkpoint, site_features
from adapter_export.checkpoints.adapterhub import config as settings_module
from adapter_export.checkpoints.adapterhub.config import CONFIG, BottleneckConfig, parse
from adapter_export.checkpoints.adapterhub.expressing import config_beside, expressed, parts_of
from adapter_export.checkpoints.adapterhub.interface import INTERFACE, Interface
from adapter_export.checkpoints.adapterhub.places import arrange, places
from adapter_export.checkpoints.adapterhub.tensors import by_place, tensors_of
from adapter_export.checkpoints.adapterhub.writing import NAME
from adapter_export.errors import InputError
from adapter_export.methods.bottleneck import PLACEMENTS, BottleneckOperator, placement_sites
from adapter_export.methods.contract import SiteAdapter
from adapter_export.modelinfo import ModelInfo
from adapter_export.outputs.ownership import SIDECAR
from adapter_export.reading.fields import field
from adapter_export.reading.shown import shortened
from adapter_export.sites import Port, Site

LIBRARY_METHOD = "bottleneck"
EXPECTED = "null (bottleneck), a union of bottlenecks"
# The most places that an error message lists.
_SHOWN = 6


@dataclass(frozen=True)
class _Standing:
    """The adapter at one key of the tensor names.

    Attributes:
        site: Its site.
        operator: Its operator.
        settings: Its config.
        number: Number of its layer, in the library's count.
    """

    site: Site
    operator: BottleneckOperator
    settings: BottleneckConfig
    number: int


def recognises(config: Mapping[str, Any]) -> bool:
    """Returns whether these are settings without an architecture, or a union, whose parts are checked later."""
    return config.get("architecture") in (None, "union")


def why_not(config: Mapping[str, Any]) -> str | None:
    """Returns None, as settings with any architecture are of other methods."""
    return None


def site_adapters(
    checkpoint: Checkpoint, config: dict[str, Any], info: ModelInfo, interface: Interface | None
) -> dict[Site, SiteAdapter]:
    """Returns the bottlenecks by site."""
    configs = _configs(config, checkpoint.folder / CONFIG)
    parts, shared = by_place(checkpoint, info)
    expected = _standing(checkpoint, configs, info, interface)
    if unknown := sorted(set(parts) - set(expected)):
        raise InputError(
            f"{checkpoint.folder}: tensors at {unknown[0]!r}: no such place for this config in a {info.model_type} "
            f"model (places: {', '.join(sorted(expected)[:_SHOWN]) or 'none'}{', ...' * (len(expected) > _SHOWN)})"
        )
    if missing := sorted(set(expected) - set(parts)):
        raise InputError(f"{checkpoint.folder}: tensors at {missing[0]!r} are missing ({len(missing)} places in all)")
    if shared and not any(there.settings.phm for there in expected.values()):
        raise InputError(f"{checkpoint.folder}: tensors shared by all places, but 'phm_layer' is false")
    found = {}
    for key, there in expected.items():
        features = site_features(checkpoint, info, there.site).outputs
        tensors = tensors_of(
            checkpoint, key, parts[key], shared, there.settings, there.operator, there.number, features
        )
        found[there.site] = SiteAdapter(there.operator, tensors)
    return found


def notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns notes for the user on the settings, or on each part of a union."""
    parts = config.get("configs") if config.get("architecture") else [config]
    listed = parts if isinstance(parts, list) else []
    return tuple(dict.fromkeys(note for part in listed for note in settings_module.notes(part)))


def write(adapter: Adapter, info: ModelInfo) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """Returns tensors, settings, and what the settings cannot express of the sites: a placement's name, or modules."""
    found = expressed(adapter, info)
    beside: dict[str, Any] = {}
    if found is None:
        config, keys = config_beside(adapter), {site: site.module for site in adapter.sites}
        beside = _beside(adapter, info)
    else:
        config, keys = found
    tensors = {
        f"{former(info.model_type, keys[site])}.adapters.{NAME}.{name}": tensor
        for site, site_adapter in adapter.sites.items()
        for name, tensor in parts_of(site_adapter).items()
    }
    return tensors, config, beside


def _beside(adapter: Adapter, info: ModelInfo) -> dict[str, Any]:
    for placement in PLACEMENTS:
        if _own_sites(info, placement) == set(adapter.sites):
            return {"placement": placement}
    if others := [site for site in adapter.sites if site != Site(site.module, Port.OUTPUT)]:
        raise InputError(f"site {others[0].name}: AdapterHub's format has no settings for what it reads")
    return {"modules": sorted(site.module for site in adapter.sites)}


def _configs(config: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Returns the config itself, or the parts of a union."""
    if config.get("architecture") is None:
        return [config]
    configs: list[Any] = field(config, path, "configs", list)
    for part in configs:
        if not isinstance(part, dict) or part.get("architecture") is not None:
            found = part.get("architecture") if isinstance(part, dict) else part
            raise InputError(
                f"{path}: field 'configs': a union with {shortened(found)} is not supported, only one of bottlenecks "
                "at different places"
            )
    return configs


def _standing(
    checkpoint: Checkpoint, configs: list[dict[str, Any]], info: ModelInfo, interface: Interface | None
) -> dict[str, _Standing]:
    """Returns the adapters that these configs describe, by key. Sites of our own placements are listed in our file."""
    path = checkpoint.folder / CONFIG
    task_adapter = checkpoint.config.get("type") == "text_task"
    # The name of a configuration means its current settings, whatever the version of the checkpoint.
    versioned = "version" in checkpoint.config or isinstance(checkpoint.config["config"], str)
    settings = [parse(config, path, versioned=versioned, task_adapter=task_adapter) for config in configs]
    if (sites := _recorded(checkpoint, info)) is not None:
        first = settings[0]
        how = first.arithmetic
        operator = BottleneckOperator(
            how.activation,
            ("x",) if how.is_parallel else ("u",),
            norm_before=how.ln_before,
            norm_after=how.ln_after,
        )
        return {site.module: _Standing(site, operator, first, number) for number, site in enumerate(sites)}
    if interface is None and not facts(info.model_type).stacks:
        raise InputError(
            f"{path}: field 'model_type': no placement table for {info.model_type!r}, and no "
            f"{INTERFACE} beside the checkpoint"
        )
    standing: dict[str, _Standing] = {}
    for part in settings:
        for place in places(info, interface):
            if place.kind not in part.kinds or place.number in part.leave_out:
                continue
            if place.key in standing:
                raise InputError(f"{path}: field 'configs': two of the union's parts stand at {place.key!r}")
            if part.reduction_factor is not None and part.width(place.number, info.hidden_size) is None:
                raise InputError(
                    f"{path}: field 'reduction_factor': expected a value for layer {place.number}, or 'default'"
                )
            try:
                standing[place.key] = _Standing(*arrange(place, part.arithmetic), part, place.number)
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
    return standing


def _recorded(checkpoint: Checkpoint, info: ModelInfo) -> list[Site] | None:
    """Returns the sites that our own file beside the checkpoint lists, in order; None if it lists none."""
    if (modules := checkpoint.sidecar.get("modules")) is not None:
        return sorted(Site(module, Port.OUTPUT) for module in modules)
    if (placement := checkpoint.sidecar.get("placement")) is not None:
        if placement not in PLACEMENTS:
            path, expected = checkpoint.folder / SIDECAR, ", ".join(PLACEMENTS)
            raise InputError(f"{path}: field 'placement': expected one of {expected}, found {shortened(placement)}")
        return sorted(_own_sites(info, placement))
    return None


def _own_sites(info: ModelInfo, placement: str) -> set[Site]:
    if not facts(info.model_type).stacks:
        return set()
    return set(placement_sites(layers_of(info.model_type, info.modules), placement))
