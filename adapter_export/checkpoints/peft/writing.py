"""Writes checkpoints that compute the same when PEFT loads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np

from adapter_export import tasks
from adapter_export.architectures.registry import facts
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.codecs import codec, codecs
from adapter_export.checkpoints.peft.codec import FORMAT, PeftCodec
from adapter_export.checkpoints.peft.config import CONFIG, TASK_HEADS
from adapter_export.checkpoints.peft.matching import is_saved
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo

KEY_PREFIX = "base_model.model."
# The current file and the older one, in the order in which PEFT looks for them.
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def write(folder: Path, adapter: Adapter, info: ModelInfo, base_name: str) -> dict[str, Any]:
    """Writes the adapter as PEFT would, into an existing folder. Returns nothing to be kept beside it.

    Tensors from a half-precision checkpoint are written as they were there, unless they have changed since.

    Raises:
        InputError: The method is not kept in this format.
    """
    from safetensors.numpy import save_file

    method = cast("PeftCodec | None", codec(FORMAT, adapter.method))
    if method is None:
        known = ", ".join(codecs(FORMAT))
        raise InputError(f"method {adapter.method!r}: not written in PEFT's format, only: {known}")
    prefix = f"{info.prefix}." if info.nested else ""
    own, fields = method.write(adapter, info)
    tensors = {f"{prefix}{name}": _as_stored(adapter, name, tensor) for name, tensor in own.items()}
    for module, layer in adapter.head.items():
        tensors[f"{module}.weight"] = _as_stored(adapter, f"{module}.weight", layer.weight)
        if layer.bias is not None:
            tensors[f"{module}.bias"] = _as_stored(adapter, f"{module}.bias", layer.bias)
    task = tasks.get(adapter.task).peft if adapter.task else None
    config = {
        "base_model_name_or_path": base_name,
        "exclude_modules": None,
        # PEFT looks at the layer instead, and warns of a difference.
        "fan_in_fan_out": facts(info.model_type).transposed,
        "inference_mode": True,
        "modules_to_save": _saved(adapter, task) or None,
        "peft_type": method.PEFT_TYPE,
        "revision": None,
        "task_type": task,
        **fields,
    }
    text = json.dumps(dict(sorted(config.items())), indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    save_file({f"{KEY_PREFIX}{n}": t for n, t in tensors.items()}, folder / WEIGHTS[0], metadata={"format": "pt"})
    return {}


def _as_stored(adapter: Adapter, name: str, tensor: np.ndarray) -> np.ndarray:
    import ml_dtypes  # noqa: F401 (lets numpy know bfloat16)

    narrow = tensor.astype(adapter.stored.get(name, tensor.dtype))
    return np.ascontiguousarray(narrow if np.array_equal(narrow.astype(tensor.dtype), tensor) else tensor)


def _saved(adapter: Adapter, task: str | None) -> list[str]:
    """Returns modules_to_save that name the head's layers.

    If PEFT saves a whole module for this task anyway, that module is named, as PEFT would wrap a layer in it twice.
    Otherwise each layer is named by its path.
    """
    whole = {module: module.partition(".")[0] for module in adapter.head}
    return sorted({top if is_saved(top, TASK_HEADS[task]) else module for module, top in whole.items()})
