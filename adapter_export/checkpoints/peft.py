"""PEFT's IA3 checkpoints: `adapter_config.json` with `adapter_model.safetensors` (older: `adapter_model.bin`).

Tensors are `base_model.model.<module path>.ia3_l`, (out, 1) on the output side and (1, in) on the input side; the
config's `feedforward_modules` says which is which. Matching follows peft 0.21 (`tuners/ia3/model.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export import tasks
from adapter_export.checkpoints.adapter import Adapter, Checkpoint, site_features
from adapter_export.checkpoints.files import field, read_tensors
from adapter_export.checkpoints.heads import head_layers
from adapter_export.errors import InputError
from adapter_export.methods.contract import Block
from adapter_export.methods.ia3 import IA3Operator
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Port, Site, strip_prefix

FORMAT = "peft"
_KEY_PREFIX = "base_model.model."
_VECTOR = ".ia3_l"
_CONFIG = "adapter_config.json"
# Models made of transformers' Conv1D, which keeps weights as (in, out): a setting PEFT corrects, with a warning.
_TRANSPOSED = frozenset({"gpt2", "imagegpt", "openai-gpt"})
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def read(folder: Path, config: dict[str, Any]) -> Checkpoint:
    """Read the folder; raises InputError for a missing or unreadable file, or a PEFT method other than IA3."""
    path = folder / _CONFIG
    if (kind := field(config, path, "peft_type", str)) != "IA3":
        raise InputError(f"{path}: field 'peft_type': expected 'IA3', found {kind!r}")
    weights = next((folder / name for name in _WEIGHTS if (folder / name).exists()), None)
    if weights is None:
        raise InputError(f"{folder}: expected {' or '.join(_WEIGHTS)}, found neither")
    tensors = read_tensors(weights)
    if stray := [name for name in tensors if not name.startswith(_KEY_PREFIX)]:
        raise InputError(f"{weights}: tensor {stray[0]!r}: expected a name that starts with {_KEY_PREFIX!r}")
    return Checkpoint(folder, FORMAT, config, {name.removeprefix(_KEY_PREFIX): t for name, t in tensors.items()})


def resolve(checkpoint: Checkpoint, info: ModelInfo) -> Adapter:
    """Place the checkpoint's vectors in the model. Raises InputError for unknown, missing or misshapen tensors."""
    path, config = checkpoint.folder / _CONFIG, checkpoint.config
    targets = _patterns(config, path, "target_modules")
    feedforward = _patterns(config, path, "feedforward_modules")
    excluded = _patterns(config, path, "exclude_modules") or ()
    vectors = {n.removesuffix(_VECTOR): t for n, t in checkpoint.tensors.items() if n.endswith(_VECTOR)}
    if not vectors:
        raise InputError(f"{checkpoint.folder}: expected tensors named *{_VECTOR}, found none")

    # PEFT matches the names of the class it wrapped, with or without the prefix: the keys tell which.
    nested = any(name.startswith(f"{info.prefix}.") for name in vectors)
    blocks = {}
    for name, vector in vectors.items():
        inner = _matches_feedforward(name, feedforward or ())
        site = Site(strip_prefix(name, info.prefix), Port.INPUT if inner else Port.OUTPUT)
        features = site_features(checkpoint, info, site)
        shape = (1, features) if inner else (features, 1)
        if vector.shape != shape:
            raise InputError(
                f"{checkpoint.folder}: tensor {name + _VECTOR!r}: expected shape {shape} for this base model, "
                f"found {vector.shape}"
            )
        blocks[site] = Block(IA3Operator(), {"l": vector.reshape(-1)})
    if targets is not None:
        names = [f"{info.prefix}.{module}" if nested else module for module in info.inputs]
        expected = {n for n in names if _matches_target(n, targets) and not _matches_target(n, excluded)}
        if surplus := sorted(set(vectors) - expected):
            raise InputError(
                f"{checkpoint.folder}: tensor {surplus[0] + _VECTOR!r}: 'target_modules' does not name its module "
                f"({len(surplus)} such tensors)"
            )
        if missing := sorted(expected - set(vectors)):
            raise InputError(
                f"{checkpoint.folder}: tensor {missing[0] + _VECTOR!r} is missing ({len(missing)} in all), but "
                "'target_modules' names its module"
            )
    return Adapter(
        method="ia3",
        blocks=blocks,
        head=head_layers(checkpoint, _head(checkpoint), info),
        labels=_labels(checkpoint),
        source_format=FORMAT,
        base_sha256=checkpoint.sidecar.get("base_sha256"),
    )


def task_of(checkpoint: Checkpoint) -> str | None:
    """The task by PEFT's `task_type`, or None."""
    return tasks.of_peft(checkpoint.config.get("task_type"))


def write(folder: Path, adapter: Adapter, info: ModelInfo, base_name: str) -> None:
    """Write `adapter` as PEFT would, into an existing folder: what PEFT loads computes the same."""
    from safetensors.numpy import save_file

    if any(not isinstance(block.operator, IA3Operator) for block in adapter.blocks.values()):
        raise InputError(f"method {adapter.method!r}: PEFT's format holds IA3 only")
    prefix = f"{info.prefix}." if info.nested else ""
    tensors = {}
    for site, block in adapter.blocks.items():
        vector = block.tensors["l"]
        shaped = vector[None, :] if site.port is Port.INPUT else vector[:, None]
        tensors[f"{_KEY_PREFIX}{prefix}{site.module}{_VECTOR}"] = np.ascontiguousarray(shaped)
    for module, layer in adapter.head.items():
        tensors[f"{_KEY_PREFIX}{module}.weight"] = np.ascontiguousarray(layer.weight)
        if layer.bias is not None:
            tensors[f"{_KEY_PREFIX}{module}.bias"] = layer.bias
    config = {
        "base_model_name_or_path": base_name,
        "exclude_modules": None,
        "fan_in_fan_out": info.model_type in _TRANSPOSED,
        "feedforward_modules": sorted(site.module for site in adapter.blocks if site.port is Port.INPUT),
        "inference_mode": True,
        "init_ia3_weights": True,
        "modules_to_save": sorted({module.split(".")[0] for module in adapter.head}) or None,
        "peft_type": "IA3",
        "revision": None,
        "target_modules": sorted(site.module for site in adapter.blocks),
        "task_type": tasks.get(adapter.task).peft if adapter.task else None,
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / _WEIGHTS[0], metadata={"format": "pt"})


def _head(checkpoint: Checkpoint) -> Mapping[str, np.ndarray]:
    return {name: tensor for name, tensor in checkpoint.tensors.items() if not name.endswith(_VECTOR)}


def _labels(checkpoint: Checkpoint) -> tuple[str, ...] | None:
    labels = checkpoint.sidecar.get("labels")
    return tuple(labels) if labels else None


def _patterns(config: dict[str, Any], path: Path, name: str) -> tuple[str, ...] | str | None:
    value = field(config, path, name, (list, str), None)
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise InputError(f"{path}: field {name!r}: not a regular expression: {error}") from None
        return value
    return None if value is None else tuple(str(item) for item in value)


def _matches_target(name: str, patterns: Iterable[str] | str) -> bool:
    """A string is a full-match expression; list items match the whole name or its last parts."""
    if isinstance(patterns, str):
        return re.fullmatch(patterns, name) is not None
    return any(name == item or name.endswith(f".{item}") for item in patterns)


def _matches_feedforward(name: str, patterns: Iterable[str] | str) -> bool:
    """As `_matches_target`, but list items match by plain `endswith`."""
    if isinstance(patterns, str):
        return re.fullmatch(patterns, name) is not None
    return any(name.endswith(item) for item in patterns)
