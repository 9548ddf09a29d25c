"""Writes AdapterHub's checkpoints as its library does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.adapterhub.codec import FORMAT, HubCodec
from adapter_export.checkpoints.adapterhub.config import CONFIG
from adapter_export.checkpoints.adapterhub.heads import HEAD_CONFIG
from adapter_export.checkpoints.codecs import codec, codecs
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo

_VERSION = "adapters.1.3.0"
# The adapter's name inside the tensor names that we write. The library can load it under another name, with
# `load_adapter(..., load_as=)`.
NAME = "default"
WEIGHTS, HEAD = "adapter.safetensors", "model_head.safetensors"


def write(folder: Path, adapter: Adapter, info: ModelInfo, base_name: str) -> dict[str, Any]:
    """Writes the adapter as the library would, into an existing folder, as safetensors.

    Returns:
        What the library's settings cannot express, for our file beside it.

    Raises:
        InputError: The method is not kept in this format, or the format has no settings for an operator.
    """
    from safetensors.numpy import save_file

    method = cast("HubCodec | None", codec(FORMAT, adapter.method))
    if method is None or not hasattr(method, "write"):
        known = ", ".join(name for name, module in codecs(FORMAT).items() if hasattr(module, "write"))
        raise InputError(f"method {adapter.method!r}: not written in AdapterHub's format, only: {known}")
    own, config, beside = method.write(adapter, info)
    prefix = f"{info.prefix}." if info.nested else ""
    common = {
        "hidden_size": info.hidden_size,
        "model_class": info.architecture,
        "model_name": base_name,
        "model_type": info.model_type,
        "version": _VERSION,
    }
    _write_json(folder / CONFIG, {"config": config, "name": NAME, **common})
    save_file({f"{prefix}{name}": tensor for name, tensor in own.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    if adapter.head:
        _write_head(folder, adapter, common)
    return beside


def _write_head(folder: Path, adapter: Adapter, common: Mapping[str, Any]) -> None:
    from safetensors.numpy import save_file

    labels = adapter.label_names
    label2id = {label: i for i, label in enumerate(labels)}
    _write_json(
        folder / HEAD_CONFIG,
        {"config": None, "label2id": label2id, "name": None, "num_labels": len(labels), **common},
    )
    head = {}
    for module, layer in adapter.head.items():
        head[f"{module}.weight"] = np.ascontiguousarray(layer.weight)
        if layer.bias is not None:
            head[f"{module}.bias"] = layer.bias
    save_file(head, folder / HEAD, metadata={"format": "pt"})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
