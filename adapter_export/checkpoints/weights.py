"""Finds the files of a model folder that hold the base model's weights: those that transformers loads, and no others.

A folder may hold further files that are not part of the base model: an adapter that a trainer left beside the model,
the weights in other forms, states of optimizers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adapter_export.checkpoints.counts import check_counts
from adapter_export.checkpoints.safetensors_header import Entry, read_header
from adapter_export.errors import InputError
from adapter_export.reading.fields import field
from adapter_export.reading.files import present
from adapter_export.reading.hashes import sha256
from adapter_export.reading.json_files import optional_json, read_json
from adapter_export.reading.shown import shortened

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_BIN, _BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
# Names of weight files, in the order in which transformers looks for them.
CHOICES = (SINGLE, INDEX, _BIN, _BIN_INDEX)
CONFIG = "config.json"
# The config of an adapter, and its tensors, by the names that PEFT and AdapterHub give them.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = (
    ADAPTER_CONFIG,
    "adapter_model.safetensors",
    "adapter_model.bin",
    "adapter.safetensors",
    "pytorch_adapter.bin",
    "head_config.json",
    "model_head.safetensors",
    "pytorch_model_head.bin",
    "adapter_interface.json",
)

# Ends of the names that quantizers give to their tensors.
_QUANTIZED_NAMES = (
    ".SCB", ".absmax", ".qweight", ".qzeros", ".quant_map", ".weight_format", ".weight_packed", ".weight_scale",
    ".weight_scale_inv", ".weight_zero_point",
)  # fmt: skip
_QUANTIZED_STATE = ".quant_state."
_QUANTIZED_FIELDS = ("quantization_config", "compression_config")
_NARROW = ("F8_", "F6_", "F4")
_BYTES = ("I8", "U8")
_INTEGERS = (*_BYTES, "I16", "U16", "I32", "U32", "I64", "U64")
# Old checkpoints hold masks as bytes, under names with these ends.
_MASKS = (".bias", ".masked_bias")


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Returns the files that hold the base model's weights, sorted by name.

    Raises:
        InputError: There are none (the error names what there is instead), or an index names a file that is missing or
            whose name is no plain file name.
    """
    explicit = _explicit(folder)
    for name in (explicit,) if explicit else CHOICES:
        if present(folder / name):
            return tuple(shards(folder, name)) if name.endswith(".index.json") else (folder / name,)
    if explicit:
        raise InputError(f"{folder / CONFIG}: field 'transformers_weights': {explicit!r} is not in the folder")
    if graphs := sorted(folder.glob("*.gguf")):
        raise InputError(
            f"{graphs[0]}: GGUF files are not supported, as their weights are quantized for another runtime; use the "
            f"original weights ({SINGLE})"
        )
    raise InputError(f"model {folder}: expected {SINGLE} or {_BIN}, or shards with {INDEX}, found none")


def shards(folder: Path, index: str) -> list[Path]:
    """Returns the files that an index names, sorted. Raises InputError as `weight_files` does."""
    path = folder / index
    listed = field(read_json(path), path, "weight_map", dict)
    ending = ".safetensors" if index.endswith(INDEX.removeprefix("model")) else ".bin"
    for tensor, file in listed.items():
        # The name must not lead to another folder, on any system.
        if not isinstance(file, str) or not file.endswith(ending) or file.startswith(".") or set(file) & set("/\\:\0"):
            raise InputError(
                f"{path}: field 'weight_map': tensor {tensor[:200]!r}: expected the name of a {ending} file in this "
                f"folder, found {shortened(file)}"
            )
    if not listed:
        raise InputError(f"{path}: field 'weight_map': expected tensors, found none")
    files = sorted(set(listed.values()))
    if missing := [file for file in files if not present(folder / file)]:
        raise InputError(f"{path}: field 'weight_map': {missing[0][:200]!r} is not in the folder")
    return [folder / file for file in files]


def weights_sha256(folder: Path) -> str:
    """Returns the digest of the base model's weights: of sorted (name, sha256) of the files that hold them.

    Raises:
        InputError: See `weight_files`.
    """
    return _digest(weight_files(folder))


def checkpoint_sha256(folder: Path) -> str:
    """Returns the digest of an adapter's checkpoint, its configs and tensors: of sorted (name, sha256) of the files."""
    return _digest(folder / name for name in sorted(ADAPTER_FILES) if present(folder / name))


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def model_config(folder: Path) -> dict[str, Any]:
    """Returns the base model's config.

    Raises:
        InputError: The config cannot be read, the folder holds an adapter only, or a count is larger than in any model.
    """
    if not present(folder / CONFIG) and present(folder / ADAPTER_CONFIG):
        raise InputError(
            f"model {folder}: expected a base model ({CONFIG}), found an adapter ({ADAPTER_CONFIG}), which belongs to "
            "--adapter"
        )
    config = read_json(folder / CONFIG)
    check_counts(config, folder / CONFIG)
    return config


def adapter_beside(folder: Path) -> bool:
    """Returns whether a model's folder holds an adapter as well, which is not part of the base model."""
    return present(folder / CONFIG) and present(folder / ADAPTER_CONFIG)


def refuse_quantized(folder: Path, config: Mapping[str, Any], *, types: bool = True) -> None:
    """Raises InputError for a base model with quantized weights.

    Args:
        folder: The model's folder.
        config: Content of config.json.
        types: Whether to look at the types of the weights too, and not only at names.
    """
    path = folder / CONFIG
    # Models that consist of several models have configs in their config.
    nested = [value for value in config.values() if isinstance(value, Mapping)]
    for place, entry in ((place, entry) for place in (config, *nested) for entry in _QUANTIZED_FIELDS):
        if settings := place.get(entry):
            method = settings.get("quant_method") if isinstance(settings, Mapping) else None
            raise InputError(
                f"{path}: field {entry!r}: the base model is quantized ({shortened(method or settings)}), "
                "which is not supported; use the folder with its original weights"
            )
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            header = read_header(file)
            name = quantized_name(header.tensors) or (_quantized_tensor(header.tensors) if types else None)
            if name is not None:
                found = header.tensors[name].dtype
                raise InputError(
                    f"{file}: tensor {name!r} ({found}): the base model is quantized, which is not supported; use the "
                    "folder with its original weights"
                )


def quantized_name(names: Iterable[str]) -> str | None:
    """Returns the first name that only a quantizer gives; None if there is none."""
    return next((name for name in names if name.endswith(_QUANTIZED_NAMES) or _QUANTIZED_STATE in name), None)


def _quantized_tensor(tensors: Mapping[str, Entry]) -> str | None:
    for name, entry in tensors.items():
        # Masks and positions are integers as well; weights of layers are not.
        in_bytes = entry.dtype in _BYTES and not name.endswith(_MASKS)
        if entry.dtype.startswith(_NARROW) or in_bytes or (entry.dtype in _INTEGERS and name.endswith(".weight")):
            return name
    return None


def _explicit(folder: Path) -> str | None:
    """Returns the name of the weight file that the config states; None if it states none."""
    name: str | None = field(optional_json(folder / CONFIG), folder / CONFIG, "transformers_weights", str, None)
    endings = (".safetensors", ".safetensors.index.json")
    if name is not None and (not name.endswith(endings) or name.startswith(".") or set(name) & set("/\\:\0")):
        raise InputError(
            f"{folder / CONFIG}: field 'transformers_weights': expected the name of a .safetensors file in this "
            f"folder, found {shortened(name)}"
        )
    return name
