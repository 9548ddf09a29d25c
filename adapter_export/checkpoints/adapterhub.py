"""AdapterHub's checkpoints (library `adapters`): `adapter_config.json` with `adapter.safetensors` or
`pytorch_adapter.bin`; a head in `head_config.json` with `model_head.safetensors` or `pytorch_model_head.bin`.

Bottleneck tensors are `[prefix.]<place>.adapters.<name>.adapter_{down.0,up}.{weight,bias}`, matrices (out, in).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.architectures.layers import layers_of
from adapter_export.architectures.registry import facts
from adapter_export.checkpoints import hub_config, hub_heads, hub_interface, hub_lora, hub_named, hub_writing
from adapter_export.checkpoints.adapter import Adapter, Checkpoint, site_features
from adapter_export.checkpoints.files import field, read_json, read_tensors, shortened
from adapter_export.checkpoints.hub_config import Settings
from adapter_export.checkpoints.hub_interface import Interface
from adapter_export.checkpoints.hub_places import arrange, places
from adapter_export.checkpoints.hub_tensors import by_place, tensors_of
from adapter_export.errors import InputError
from adapter_export.methods.bottleneck import PLACEMENTS, BottleneckOperator, placement_sites
from adapter_export.methods.contract import Block
from adapter_export.modelinfo import ModelInfo
from adapter_export.reading.files import present
from adapter_export.sites import Port, Site

FORMAT = "adapterhub"
_WEIGHTS = (hub_writing.WEIGHTS, "pytorch_adapter.bin")
_HEADS = (hub_writing.HEAD, "pytorch_model_head.bin")
# What the library's `save_embeddings` writes.
_EMBEDDINGS = "embedding.pt"
# How many places an error message lists.
_SHOWN = 6
write = hub_writing.write
task_of = hub_heads.task_of
task_told = hub_heads.task_told


@dataclass(frozen=True)
class _Standing:
    """What stands at one key of the tensor names."""

    site: Site
    operator: BottleneckOperator
    settings: Settings
    number: int


def read(folder: Path, config: dict[str, Any]) -> Checkpoint:
    """Read the folder; raises InputError for a missing or unreadable file."""
    if present(embeddings := folder / _EMBEDDINGS):
        raise InputError(f"{embeddings}: embeddings that were trained with the adapter are not supported")
    # Either file alone is an error, so that no head is dropped silently.
    has_head = any(present(folder / name) for name in (hub_heads.HEAD_CONFIG, *_HEADS))
    return Checkpoint(
        folder,
        FORMAT,
        config,
        read_tensors(_first(folder, _WEIGHTS)),
        read_tensors(_first(folder, _HEADS)) if has_head else {},
        read_json(folder / hub_heads.HEAD_CONFIG) if has_head else {},
        interface=read_json(described) if present(described := folder / hub_interface.INTERFACE) else None,
    )


def resolve(checkpoint: Checkpoint, info: ModelInfo) -> Adapter:
    """Place the checkpoint's tensors in the model; raises InputError for what is unsupported, missing or misshapen."""
    path = checkpoint.folder / hub_config.CONFIG
    _check_model_type(checkpoint, path, info)
    name = checkpoint.config["config"]
    try:
        return _resolve(checkpoint, settings_of(checkpoint.config, path), path, info)
    except InputError as error:
        if not isinstance(name, str) or not str(error).startswith(f"{path}: field"):
            raise
        # The field is not in the file.
        raise InputError(f"{error} (in config {shortened(name)})") from None


def settings_of(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The adapter's own settings, also where `config`, read from `path`, has a name for them."""
    value = field(config, path, "config", (dict, str))
    return hub_named.expand(value, path) if isinstance(value, str) else value


def _resolve(checkpoint: Checkpoint, config: dict[str, Any], path: Path, info: ModelInfo) -> Adapter:
    interface = _interface(checkpoint, info)
    match config.get("architecture"):
        case "lora":
            _check_method(checkpoint, interface, "lora")
            method, blocks = "ia3", hub_lora.blocks_of(checkpoint, config, info, interface)
            notes = hub_lora.notes(config)
        case None | "union":
            configs = _configs(config, path)
            _check_method(checkpoint, interface, "bottleneck")
            method, blocks = "bottleneck", _bottlenecks(checkpoint, configs, info, interface)
            notes = tuple(dict.fromkeys(note for part in configs for note in hub_config.notes(part)))
        case other:
            raise InputError(
                f"{path}: field 'architecture': {shortened(other)} is not supported, expected null (bottleneck), "
                "'lora' with composition_mode 'scale' (IA3), or a union of bottlenecks"
            )
    head = hub_heads.head_of(checkpoint, info)
    return Adapter(
        method=method,
        blocks=blocks,
        head=head.layers,
        repeated=head.repeated,
        problem_type=hub_heads.problem_type_of(checkpoint),
        labels=hub_heads.labels_of(checkpoint),
        source_format=FORMAT,
        base_sha256=checkpoint.sidecar.get("base_sha256"),
        notes=(*notes, *head.notes),
    )


def method_of(config: Mapping[str, Any]) -> str:
    """The method that a nested config is of: one of ours, or the library's name for another."""
    match config.get("architecture"):
        case "lora":
            return "ia3" if config.get("composition_mode") == "scale" else "lora"
        case None:
            return "bottleneck" if {"mh_adapter", "output_adapter"} & set(config) else "unknown"
        case other:
            return str(other)


def sidecar(adapter: Adapter, info: ModelInfo) -> dict[str, Any]:
    """What the library's settings cannot express of an adapter's places, to be recorded beside the checkpoint."""
    if adapter.method != "bottleneck" or hub_writing.expressed(adapter, info) is not None:
        return {}
    for placement in PLACEMENTS:
        if _own_sites(info, placement) == set(adapter.blocks):
            return {"placement": placement}
    if odd := [site for site in adapter.blocks if site != Site(site.module, Port.OUTPUT)]:
        raise InputError(f"site {odd[0].name}: AdapterHub's format has no settings for what it reads")
    return {"modules": sorted(site.module for site in adapter.blocks)}


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if present(folder / name):
            return folder / name
    raise InputError(f"{folder}: expected {' or '.join(names)}, found neither")


def _check_model_type(checkpoint: Checkpoint, path: Path, info: ModelInfo) -> None:
    found = checkpoint.config.get("model_type", info.model_type)
    if found != info.model_type and info.model_type not in facts(str(found)).parts:
        raise InputError(f"{path}: field 'model_type': expected {info.model_type!r}, found {shortened(found)}")


def _interface(checkpoint: Checkpoint, info: ModelInfo) -> Interface | None:
    if checkpoint.interface is None:
        return None
    return hub_interface.parse(checkpoint.interface, checkpoint.folder / hub_interface.INTERFACE, info)


def _check_method(checkpoint: Checkpoint, interface: Interface | None, method: str) -> None:
    if interface is not None and method not in interface.adapter_methods:
        raise InputError(
            f"{checkpoint.folder / hub_interface.INTERFACE}: field 'adapter_methods': {method!r}, of which the adapter "
            "is, is not among them"
        )


def _configs(config: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """The config itself, or the parts of a union."""
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


def _bottlenecks(
    checkpoint: Checkpoint, configs: list[dict[str, Any]], info: ModelInfo, interface: Interface | None
) -> dict[Site, Block]:
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
    blocks = {}
    for key, there in expected.items():
        features = site_features(checkpoint, info, there.site).outputs
        tensors = tensors_of(
            checkpoint, key, parts[key], shared, there.settings, there.operator, there.number, features
        )
        blocks[there.site] = Block(there.operator, tensors)
    return blocks


def _standing(
    checkpoint: Checkpoint, configs: list[dict[str, Any]], info: ModelInfo, interface: Interface | None
) -> dict[str, _Standing]:
    """What these configs put where, by key. Places of our own are listed in our file beside the checkpoint."""
    path = checkpoint.folder / hub_config.CONFIG
    task_adapter = checkpoint.config.get("type") == "text_task"
    # A name stands for today's settings, whatever the checkpoint's version.
    versioned = "version" in checkpoint.config or isinstance(checkpoint.config["config"], str)
    settings = [hub_config.parse(config, path, versioned=versioned, task_adapter=task_adapter) for config in configs]
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
            f"{hub_interface.INTERFACE} beside the checkpoint"
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
    """The sites that our own file beside the checkpoint records, in order."""
    if (modules := checkpoint.sidecar.get("modules")) is not None:
        return sorted(Site(module, Port.OUTPUT) for module in modules)
    if (placement := checkpoint.sidecar.get("placement")) is not None:
        return sorted(_own_sites(info, placement))
    return None


def _own_sites(info: ModelInfo, placement: str) -> set[Site]:
    if not facts(info.model_type).stacks:
        return set()
    return set(placement_sites(layers_of(info.model_type, info.modules), placement))
