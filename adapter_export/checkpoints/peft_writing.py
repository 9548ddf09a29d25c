"""Writing PEFT's IA3 checkpoints: what PEFT loads from them computes the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from adapter_export import tasks
from adapter_export.architectures.registry import facts
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.peft_config import CONFIG, TASK_HEADS, Patterns
from adapter_export.checkpoints.peft_matching import is_saved, scaled_at_input, targeted
from adapter_export.errors import InputError
from adapter_export.methods.ia3 import IA3Operator
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Port

KEY_PREFIX = "base_model.model."
VECTOR = ".ia3_l"
# Today's file and the older one, in the order in which PEFT looks for them.
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def write(folder: Path, adapter: Adapter, info: ModelInfo, base_name: str) -> None:
    """Write `adapter` as PEFT would, into an existing folder. Raises InputError for a method other than IA3.

    Tensors that came from a half-precision checkpoint are written as they were there, unless they have changed since.
    """
    from safetensors.numpy import save_file

    if any(not isinstance(block.operator, IA3Operator) for block in adapter.blocks.values()):
        raise InputError(f"method {adapter.method!r}: PEFT's format holds IA3 only")
    prefix = f"{info.prefix}." if info.nested else ""
    tensors = {}
    for site, block in adapter.blocks.items():
        vector = block.tensors["l"]
        first = site.port is Port.INPUT or vector.ndim > 1
        name = f"{site.module}{VECTOR}"
        tensors[f"{prefix}{name}"] = _as_stored(adapter, name, vector[None] if first else vector[:, None])
    for module, layer in adapter.head.items():
        tensors[f"{module}.weight"] = _as_stored(adapter, f"{module}.weight", layer.weight)
        if layer.bias is not None:
            tensors[f"{module}.bias"] = _as_stored(adapter, f"{module}.bias", layer.bias)
    targets, feedforward = _placement(adapter, info)
    task = tasks.get(adapter.task).peft if adapter.task else None
    config = {
        "base_model_name_or_path": base_name,
        "exclude_modules": None,
        # PEFT goes by the layer, and warns where this says otherwise.
        "fan_in_fan_out": facts(info.model_type).transposed,
        "feedforward_modules": feedforward,
        "inference_mode": True,
        "init_ia3_weights": True,
        "modules_to_save": _saved(adapter, task) or None,
        "peft_type": "IA3",
        "revision": None,
        "target_modules": targets,
        "task_type": task,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({f"{KEY_PREFIX}{n}": t for n, t in tensors.items()}, folder / WEIGHTS[0], metadata={"format": "pt"})


def _as_stored(adapter: Adapter, name: str, tensor: np.ndarray) -> np.ndarray:
    import ml_dtypes  # noqa: F401 (lets numpy know bfloat16)

    narrow = tensor.astype(adapter.stored.get(name, tensor.dtype))
    return np.ascontiguousarray(narrow if np.array_equal(narrow.astype(tensor.dtype), tensor) else tensor)


def _placement(adapter: Adapter, info: ModelInfo) -> tuple[list[str] | str, list[str] | str]:
    """target_modules and feedforward_modules that mean the adapter's sites and no other."""
    targets = sorted(site.module for site in adapter.blocks)
    feedforward = sorted(site.module for site in adapter.blocks if site.port is Port.INPUT)
    if _means(tuple(targets), tuple(feedforward), adapter, info):
        return targets, feedforward
    # Some name is the end of another one. Expressions match whole names.
    return _expression(targets, info), _expression(feedforward, info) if feedforward else []


def _means(targets: Patterns, feedforward: Patterns, adapter: Adapter, info: ModelInfo) -> bool:
    """Whether PEFT would find exactly the adapter's sites by these."""
    prefix = f"{info.prefix}." if info.nested else ""
    ports = {f"{prefix}{site.module}": site.port for site in adapter.blocks}
    named = targeted((f"{prefix}{module}" for module in info.modules if module), targets)
    at_input = {name for name, port in ports.items() if port is Port.INPUT}
    return named == set(ports) and scaled_at_input(ports, feedforward) == at_input


def _expression(modules: Iterable[str], info: ModelInfo) -> str:
    return rf"({re.escape(info.prefix)}\.)?({'|'.join(map(re.escape, modules))})"


def _saved(adapter: Adapter, task: str | None) -> list[str]:
    """modules_to_save that mean the head's layers: a whole module where PEFT saves it for this task anyway (PEFT would
    wrap a layer in it twice), else each layer by its path."""
    whole = {module: module.partition(".")[0] for module in adapter.head}
    return sorted({top if is_saved(top, TASK_HEADS[task]) else module for module, top in whole.items()})
