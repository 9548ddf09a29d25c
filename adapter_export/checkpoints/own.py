"""The project's own checkpoint format, for methods that no other library's format can hold.

`adapter_config.json` has the object `adapter_export`: the version of the format, the method, and `blocks`, a list with
a site and the fields of its operator in each entry. `adapter.safetensors` has the tensors by
`<site>.<operator>.<tensor>`, in the shapes that the operator says. `model_head.safetensors` has a task head's tensors,
by module path in the task model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.checkpoints.adapter import Adapter, Checkpoint, site_features
from adapter_export.checkpoints.heads import head_layers
from adapter_export.checkpoints.tensor_files import read_tensors
from adapter_export.errors import InputError
from adapter_export.methods import registry
from adapter_export.methods.contract import Operator, SiteAdapter
from adapter_export.modelinfo import ModelInfo
from adapter_export.naming import tensor_name
from adapter_export.reading.fields import field
from adapter_export.reading.files import present
from adapter_export.reading.shown import shortened
from adapter_export.reading.typed import WrongField, build
from adapter_export.sites import Features, Port, Site

FORMAT = "adapter-export"
CONFIG, KEY = "adapter_config.json", "adapter_export"
_VERSION = 1
_WEIGHTS, _HEAD = "adapter.safetensors", "model_head.safetensors"
_SITE = ("module", "port", "residual", "output", "norm")
# The fields of a site that each value needs (see `sites.Site`).
_NEEDED = {"x": ("residual",), "h": ("output",), "n": ("norm", "residual")}


def recognises(config: Mapping[str, Any]) -> bool:
    """Returns whether an `adapter_config.json` is of this format."""
    return KEY in config


def read(folder: Path, config: dict[str, Any]) -> Checkpoint:
    """Reads the folder. Raises InputError for a missing or unreadable file, or an unknown version."""
    path = folder / CONFIG
    about = field(config, path, KEY, dict)
    if (version := about.get("format_version")) != _VERSION or isinstance(version, bool):
        raise InputError(f"{path}: field 'format_version': expected {_VERSION}, found {shortened(version)}")
    head = read_tensors(folder / _HEAD) if present(folder / _HEAD) else {}
    return Checkpoint(folder, FORMAT, config, read_tensors(folder / _WEIGHTS), head)


def resolve(checkpoint: Checkpoint, info: ModelInfo) -> Adapter:
    """Places the tensors in the model. Raises InputError for what is unknown, missing, left over or misshapen."""
    path = checkpoint.folder / CONFIG
    about = checkpoint.config[KEY]
    method = registry.get(field(about, path, "method", str))
    # An operator's fields become part of a graph. The readers of other formats check each setting on their own.
    if method.checkpoint_format != FORMAT:
        raise InputError(
            f"{path}: field 'method': {method.name!r} is not kept in this format, but as {method.checkpoint_format}"
        )
    left = dict(checkpoint.tensors)
    sites: dict[Site, SiteAdapter] = {}
    for number, entry in enumerate(field(about, path, "blocks", list)):
        site, operator = _entry(path, f"blocks[{number}]", entry, method.operator_type)
        if site in sites:
            raise InputError(f"{path}: field 'blocks[{number}]': site {site.name!r} is there twice")
        features = site_features(checkpoint, info, site)
        _check_values(path, f"blocks[{number}]", site, operator, info)
        sites[site] = SiteAdapter(operator, _tensors(checkpoint, site, operator, features, left))
    if left:
        raise InputError(f"{checkpoint.folder}: tensor {min(left)!r}: no block of {CONFIG} has it ({len(left)} in all)")
    labels = checkpoint.sidecar.get("labels")
    return Adapter(
        method.name,
        sites,
        head_layers(checkpoint, checkpoint.head, info, []) if checkpoint.head else {},
        tuple(labels) if labels else None,
        source_format=FORMAT,
        base_sha256=checkpoint.sidecar.get("base_sha256"),
    )


def task_of(checkpoint: Checkpoint) -> str | None:
    """Returns None, as the task is in our file beside the checkpoint."""
    return None


def write(folder: Path, adapter: Adapter, info: ModelInfo, base_name: str) -> dict[str, Any]:
    """Writes the adapter into an existing folder. Returns nothing to be kept beside it."""
    from safetensors.numpy import save_file

    blocks, tensors = [], {}
    for site, site_adapter in adapter.sites.items():
        place = {name: value for name in _SITE if (value := getattr(site, name))}
        blocks.append({"site": {**place, "port": site.port.value}, "operator": asdict(site_adapter.operator)})  # type: ignore[call-overload]
        for name, tensor in site_adapter.tensors.items():
            full = tensor_name(site.name, site_adapter.operator.op_name, name)
            if full in tensors:
                raise InputError(
                    f"site {site.name}: method {adapter.method!r} acts there twice, with tensors of one name"
                )
            tensors[full] = np.ascontiguousarray(tensor)
    about = {"format_version": _VERSION, "method": adapter.method, "base_model": base_name, "blocks": blocks}
    (folder / CONFIG).write_text(json.dumps({KEY: about}, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / _WEIGHTS)
    head = {f"{module}.weight": layer.weight for module, layer in adapter.head.items()}
    head |= {f"{module}.bias": layer.bias for module, layer in adapter.head.items() if layer.bias is not None}
    if head:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in head.items()}, folder / _HEAD)
    return {}


def _entry(path: Path, where: str, entry: Any, kind: type[Any]) -> tuple[Site, Operator]:
    if not isinstance(entry, dict):
        raise InputError(f"{path}: field {where!r}: expected an object, found {shortened(entry)}")
    site, operator = field(entry, path, "site", dict), field(entry, path, "operator", dict)
    if unknown := sorted(set(site) - set(_SITE)):
        raise InputError(f"{path}: field {where + '.site.' + unknown[0]!r} is not known")
    if wrong := [name for name in site if not isinstance(site[name], str)]:
        raise InputError(
            f"{path}: field {where + '.site.' + wrong[0]!r}: expected text, found {shortened(site[wrong[0]])}"
        )
    ports = [port.value for port in Port]
    if site.get("port") not in ports:
        expected, found = ", ".join(ports), shortened(site.get("port"))
        raise InputError(f"{path}: field {where + '.site.port'!r}: expected one of {expected}, found {found}")
    if "module" not in site:
        raise InputError(f"{path}: field {where + '.site.module'!r} is missing")
    try:
        return Site(**{**site, "port": Port(site["port"])}), build(kind, operator, f"{where}.operator")
    except (WrongField, InputError) as error:
        raise InputError(f"{path}: {error}") from None


def _check_values(path: Path, where: str, site: Site, operator: Operator, info: ModelInfo) -> None:
    """Raises InputError unless the site offers what the operator reads, from modules that the model has."""
    for name, module in site.reads.items():
        if module not in info.modules:
            raise InputError(f"{path}: field {f'{where}.site.{name}'!r}: the model has no module {shortened(module)}")
    for value, fields in _NEEDED.items():
        if value in operator.reads and (missing := [name for name in fields if name not in site.reads]):
            raise InputError(f"{path}: field {f'{where}.site.{missing[0]}'!r} is missing, from which {value} is read")


def _tensors(
    checkpoint: Checkpoint, site: Site, operator: Operator, features: Features, left: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the operator's tensors, taken out of `left`. All dims of one name must have one size."""
    found, free = {}, dict[str, int]()
    for name, spec in operator.specs.items():
        full = tensor_name(site.name, operator.op_name, name)
        tensor = left.pop(full, None)
        if tensor is None:
            raise InputError(f"{checkpoint.folder}: tensor {full!r} is missing")
        dims = spec.at(features)
        sizes = {dim: size for dim, size in zip(dims, tensor.shape, strict=False) if isinstance(dim, str)}
        expected = tuple(free.get(dim, sizes.get(dim, 0)) if isinstance(dim, str) else dim for dim in dims)
        if tensor.shape != expected:
            raise InputError(
                f"{checkpoint.folder}: tensor {full!r}: expected shape {expected} for this base model, found "
                f"{tensor.shape}"
            )
        free |= sizes
        found[name] = tensor
    return found
