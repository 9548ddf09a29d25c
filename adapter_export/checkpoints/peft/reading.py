"""Reads PEFT's checkpoints: `adapter_config.json` with `adapter_model.safetensors` (older: `adapter_model.bin`).

The names of all tensors begin with `base_model.model.`. The method's own module reads the tensors of the method. The
others are of modules that were saved as a whole, such as a task head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export import tasks
from adapter_export.checkpoints.adapter import Adapter, Checkpoint, HeadLayer
from adapter_export.checkpoints.heads import head_layers
from adapter_export.checkpoints.peft.codec import FORMAT, codec_of
from adapter_export.checkpoints.peft.config import CONFIG, FIELDS, INERT, PeftConfig, parse
from adapter_export.checkpoints.peft.matching import is_saved
from adapter_export.checkpoints.peft.targets import path_of
from adapter_export.checkpoints.peft.writing import KEY_PREFIX, WEIGHTS, write
from adapter_export.checkpoints.tensor_files import as_float, read_stored
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.reading.fields import unknown_fields
from adapter_export.reading.files import present
from adapter_export.sites import strip_prefix

__all__ = ["FORMAT", "head_tensors", "notes", "read", "recognises", "resolve", "task_of", "write"]

# Matches the adapter's name in the names of modules that were saved as a whole. PEFT leaves it out of its files; other
# writers may not.
_SAVED_NAME = re.compile(r"\.modules_to_save\.[^.]+(?=\.)")
# Stands in the name of an embedding that PEFT saved because the adapter changes it.
_BASE_LAYER = ".base_layer.weight"


def recognises(config: Mapping[str, Any]) -> bool:
    """Returns whether an `adapter_config.json` is of this format."""
    return "peft_type" in config


def read(folder: Path, config: dict[str, Any]) -> Checkpoint:
    """Reads the folder. Raises InputError for a missing or unreadable file, or a PEFT method that is not known here."""
    _parse(config, folder / CONFIG)
    weights = next((folder / name for name in WEIGHTS if present(folder / name)), None)
    if weights is None:
        raise InputError(f"{folder}: expected {' or '.join(WEIGHTS)}, found neither")
    tensors = _plain_names(weights, read_stored(weights), codec_of(config, folder / CONFIG)[1].ADAPTER_NAME)
    return Checkpoint(
        folder,
        FORMAT,
        config,
        {name: as_float(tensor) for name, tensor in tensors.items()},
        stored={name: tensor.dtype.name for name, tensor in tensors.items() if tensor.dtype.itemsize < 4},
    )


def resolve(checkpoint: Checkpoint, info: ModelInfo) -> Adapter:
    """Places the checkpoint's tensors in the model. Raises InputError for unknown, missing or misshapen tensors."""
    path = checkpoint.folder / CONFIG
    config = _parse(checkpoint.config, path)
    method, codec = codec_of(checkpoint.config, path)
    site_adapters, without_effect = codec.site_adapters(checkpoint, config, info)
    labels = checkpoint.sidecar.get("labels")
    return Adapter(
        method=method,
        sites=site_adapters,
        head=_head(checkpoint, config, info),
        labels=tuple(labels) if labels else None,
        source_format=FORMAT,
        base_sha256=checkpoint.sidecar.get("base_sha256"),
        stored={path_of(name, info): dtype for name, dtype in checkpoint.stored.items()},
        notes=(*notes(checkpoint.config, path), *without_effect),
        repeated=_repeated(checkpoint, info),
    )


def notes(config: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Returns notes on fields that are set and that the method does not have. PEFT ignores them, and so does this
    reader.
    """
    _, codec = codec_of(config, path)
    known = {*FIELDS, *INERT, *codec.FIELDS, *codec.INERT}
    return unknown_fields(config, CONFIG, codec.PEFT_TYPE, known)


def task_of(checkpoint: Checkpoint) -> str | None:
    """Returns the task by PEFT's `task_type`, or None."""
    return tasks.of_peft(checkpoint.config.get("task_type"))


def head_tensors(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Returns the tensors that are not the method's own: those of modules that were saved as a whole."""
    _, codec = codec_of(checkpoint.config, checkpoint.folder / CONFIG)
    return {name: tensor for name, tensor in checkpoint.tensors.items() if not codec.KEY.fullmatch(name)}


def _parse(config: Mapping[str, Any], path: Path) -> PeftConfig:
    _, codec = codec_of(config, path)
    parsed = parse(config, path, codec.INERT)
    codec.check(config, path)
    return parsed


def _plain_names(path: Path, tensors: Mapping[str, np.ndarray], adapter_name: re.Pattern[str]) -> dict[str, np.ndarray]:
    """Returns the tensors by names without PEFT's prefix, and without the adapter's name if the file has it in them."""
    foreign = [name for name in tensors if not name.startswith(KEY_PREFIX)]
    if foreign and len(foreign) < len(tensors):
        raise InputError(f"{path}: tensor {foreign[0]!r}: expected a name that starts with {KEY_PREFIX!r}")
    plain: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        short = adapter_name.sub("", _SAVED_NAME.sub("", name.removeprefix(KEY_PREFIX)))
        if short.endswith(_BASE_LAYER):
            short = f"{short.removesuffix(_BASE_LAYER)}.weight"
        if short in plain:
            raise InputError(f"{path}: tensor {name!r}: expected one adapter in the file, found {short!r} twice")
        plain[short] = tensor
    return plain


def _head(checkpoint: Checkpoint, config: PeftConfig, info: ModelInfo) -> dict[str, HeadLayer]:
    repeated = _repeated(checkpoint, info)
    tensors = {
        name: tensor
        for name, tensor in head_tensors(checkpoint).items()
        if strip_prefix(name.rpartition(".")[0], info.prefix) not in repeated
    }
    present = {name.rpartition(".")[0] for name in tensors}
    saved = [module for module in info.head if is_saved(module, config.saved)]
    missing = [module for module in saved if module not in present]
    if missing and not present - set(info.head):
        raise InputError(
            f"{checkpoint.folder}: tensor '{missing[0]}.weight' is missing, but the config's modules_to_save or "
            "task_type names its module"
        )
    return head_layers(checkpoint, tensors, info, [module for module in info.head if module not in saved])


def _repeated(checkpoint: Checkpoint, info: ModelInfo) -> dict[str, np.ndarray]:
    """Returns embeddings of the base model that are saved with the adapter, by module path.

    PEFT saves them if a vocabulary was resized, or if it cannot tell. They are compared with the model's: see
    `injection.complete_head`.
    """
    found = {}
    for name, tensor in head_tensors(checkpoint).items():
        module, _, kind = name.rpartition(".")
        path = path_of(module, info)
        if kind == "weight" and path in info.modules and path not in info.inputs and tensor.ndim == 2:
            found[path] = tensor
    return found
