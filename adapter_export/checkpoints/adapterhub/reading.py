"""Reads AdapterHub's checkpoints (library `adapters`): `adapter_config.json` with `adapter.safetensors` or
`pytorch_adapter.bin`; a head in `head_config.json` with `model_head.safetensors` or `pytorch_model_head.bin`.

The method's own module reads the adapter's tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from adapter_export.architectures.registry import facts
from adapter_export.checkpoints.adapter import Adapter, Checkpoint
from adapter_export.checkpoints.adapterhub import heads, named
from adapter_export.checkpoints.adapterhub.codec import FORMAT, HubCodec
from adapter_export.checkpoints.adapterhub.config import CONFIG
from adapter_export.checkpoints.adapterhub.interface import INTERFACE, parse
from adapter_export.checkpoints.adapterhub.writing import HEAD, WEIGHTS, write
from adapter_export.checkpoints.codecs import codecs
from adapter_export.checkpoints.tensor_files import read_tensors
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.reading.fields import field
from adapter_export.reading.files import present
from adapter_export.reading.json_files import read_json
from adapter_export.reading.shown import shortened

__all__ = ["FORMAT", "method_of", "read", "recognises", "resolve", "settings_of", "task_of", "task_stated", "write"]

_WEIGHTS = (WEIGHTS, "pytorch_adapter.bin")
_HEADS = (HEAD, "pytorch_model_head.bin")
# The file that the library's `save_embeddings` writes.
_EMBEDDINGS = "embedding.pt"
task_of = heads.task_of
task_stated = heads.task_stated


def recognises(config: Mapping[str, Any]) -> bool:
    """Returns whether an `adapter_config.json` is of this format."""
    return isinstance(config.get("config"), (dict, str))


def read(folder: Path, config: dict[str, Any]) -> Checkpoint:
    """Reads the folder. Raises InputError for a missing or unreadable file."""
    if present(embeddings := folder / _EMBEDDINGS):
        raise InputError(f"{embeddings}: embeddings that were trained with the adapter are not supported")
    # One file without the other is an error, so that no head is dropped silently.
    has_head = any(present(folder / name) for name in (heads.HEAD_CONFIG, *_HEADS))
    return Checkpoint(
        folder,
        FORMAT,
        config,
        read_tensors(_first(folder, _WEIGHTS)),
        read_tensors(_first(folder, _HEADS)) if has_head else {},
        read_json(folder / heads.HEAD_CONFIG) if has_head else {},
        interface=read_json(described) if present(described := folder / INTERFACE) else None,
    )


def resolve(checkpoint: Checkpoint, info: ModelInfo) -> Adapter:
    """Places the checkpoint's tensors in the model. Raises InputError for what is unsupported, missing or misshapen."""
    path = checkpoint.folder / CONFIG
    _check_model_type(checkpoint, path, info)
    name = checkpoint.config["config"]
    try:
        return _resolve(checkpoint, settings_of(checkpoint.config, path), path, info)
    except InputError as error:
        if not isinstance(name, str) or not str(error).startswith(f"{path}: field"):
            raise
        # The error names a field that is not in the file: say which name it comes from.
        raise InputError(f"{error} (in config {shortened(name)})") from None


def settings_of(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Returns the adapter's own settings, also if `config`, read from `path`, has a name in place of them."""
    value = field(config, path, "config", (dict, str))
    return named.expand(value, path) if isinstance(value, str) else value


def method_of(config: Mapping[str, Any]) -> str:
    """Returns the method of the adapter's own settings: one of ours, or the library's name for another.

    It is `unknown` for settings that are of no method of the library.
    """
    if config.get("architecture") is None and not {"mh_adapter", "output_adapter"} & set(config):
        return "unknown"
    for method, module in codecs(FORMAT).items():
        if module.recognises(config):
            return method
    return str(config["architecture"])


def _resolve(checkpoint: Checkpoint, config: dict[str, Any], path: Path, info: ModelInfo) -> Adapter:
    interface = None
    if checkpoint.interface is not None:
        interface = parse(checkpoint.interface, checkpoint.folder / INTERFACE, info)
    method, codec = _codec(config, path)
    if interface is not None and codec.LIBRARY_METHOD not in interface.adapter_methods:
        raise InputError(
            f"{checkpoint.folder / INTERFACE}: field 'adapter_methods': {codec.LIBRARY_METHOD!r}, of which the adapter "
            "is, is not among them"
        )
    head = heads.head_of(checkpoint, info)
    return Adapter(
        method=method,
        sites=codec.site_adapters(checkpoint, config, info, interface),
        head=head.layers,
        repeated=head.repeated,
        problem_type=heads.problem_type_of(checkpoint),
        labels=heads.labels_of(checkpoint),
        source_format=FORMAT,
        base_sha256=checkpoint.sidecar.get("base_sha256"),
        notes=(*codec.notes(config), *head.notes),
    )


def _codec(config: Mapping[str, Any], path: Path) -> tuple[str, HubCodec]:
    known = codecs(FORMAT)
    for method, module in known.items():
        if module.recognises(config):
            return method, cast("HubCodec", module)
    for module in known.values():
        if (reason := module.why_not(config)) is not None:
            raise InputError(f"{path}: {reason}")
    expected = " or ".join(module.EXPECTED for module in known.values())
    found = shortened(config.get("architecture"))
    raise InputError(f"{path}: field 'architecture': {found} is not supported, expected {expected}")


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if present(folder / name):
            return folder / name
    raise InputError(f"{folder}: expected {' or '.join(names)}, found neither")


def _check_model_type(checkpoint: Checkpoint, path: Path, info: ModelInfo) -> None:
    found = checkpoint.config.get("model_type", info.model_type)
    if found != info.model_type and info.model_type not in facts(str(found)).parts:
        raise InputError(f"{path}: field 'model_type': expected {info.model_type!r}, found {shortened(found)}")
