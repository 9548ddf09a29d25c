"""The settings of AdapterHub's `LoRAConfig`, which describes LoRA and IA3: `composition_mode` says which.

The library multiplies what is added, or the vector that scales, by alpha / r.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.checkpoints.adapter import Checkpoint
from adapter_export.checkpoints.adapterhub.config import MAX_FACTOR
from adapter_export.errors import InputError
from adapter_export.reading.fields import field
from adapter_export.reading.shown import shortened

ARCHITECTURE = "lora"
# The values of `composition_mode`. A config without it adds.
MODE, ADD, SCALE = "composition_mode", "add", "scale"
# The attention matrices, in the order of their parts in a fused projection.
THIRDS = ("q", "k", "v")
# All settings of the library.
SETTINGS = frozenset(
    {
        "alpha", "architecture", "attn_matrices", "composition_mode", "dropout", "dtype", "init_weights",
        "init_weights_seed", "intermediate_lora", "leave_out", "output_lora", "r", "selfattn_lora", "use_dora",
        "use_gating", "vera_b", "vera_d",
    }
)  # fmt: skip
# Settings that change what the adapter computes, and why an adapter that uses them is refused.
_REFUSED: Mapping[str, str] = {
    "use_gating": "the library averages the gate over all positions, padding too",
    "use_dora": "DoRA divides by norms of the merged weight, which `add` and a swappable graph do not have",
    "vera_d": "VeRA multiplies random matrices that all layers share",
    "vera_b": "VeRA multiplies random matrices that all layers share",
}
# PyTorch's names of the dtypes that the trained tensors may have. The file has its tensors in this dtype.
_DTYPES = ("bfloat16", "double", "float", "float16", "float32", "float64", "half")
# No layer is wider.
_MAX_RANK = 1 << 31
# Versions before this one took another factor by mistake. The library reads their checkpoints with a factor of 1.
_FAULTY_BEFORE = (1, 1)
_VERSION = re.compile(r"adapters\.(\d+)\.(\d+)")


@dataclass(frozen=True)
class LoRAConfig:
    """One config of LoRA or IA3.

    Attributes:
        matrices: The attention matrices that are adapted, of `THIRDS` and in their order. Empty if attention is not
            adapted.
        intermediate: Whether the module is adapted that the library calls the intermediate of the feed-forward.
        output: Whether the other module of the feed-forward is adapted.
        leave_out: Numbers of the layers without adapters.
        rank: r.
        scale: alpha / r.
    """

    matrices: tuple[str, ...]
    intermediate: bool
    output: bool
    leave_out: frozenset[int]
    rank: int
    scale: float


def is_mode(config: Mapping[str, Any], mode: str) -> bool:
    """Returns whether these are settings of LoRA's architecture with this `composition_mode`."""
    return config.get("architecture") == ARCHITECTURE and config.get(MODE, ADD) == mode


def parse(config: Mapping[str, Any], checkpoint: Checkpoint, path: Path) -> LoRAConfig:
    """Checks a config.

    Args:
        config: The config.
        checkpoint: The checkpoint.
        path: The file that the config is from.

    Raises:
        InputError: A setting is not supported, or has a wrong value. The error names the field.
    """
    for name, reason in _REFUSED.items():
        # 0.0 is a value of VeRA's settings.
        if (value := config.get(name)) is not None and value is not False:
            raise InputError(f"{path}: field {name!r}: {shortened(value)} is not supported: {reason}")
    if (dtype := field(config, path, "dtype", str, None)) is not None and dtype not in _DTYPES:
        raise InputError(f"{path}: field 'dtype': expected one of {', '.join(_DTYPES)}, found {shortened(dtype)}")
    matrices = field(config, path, "attn_matrices", list, ["q", "v"])
    if wrong := [name for name in matrices if name not in THIRDS]:
        raise InputError(f"{path}: field 'attn_matrices': expected of q, k and v, found {shortened(wrong[0])}")
    if not field(config, path, "selfattn_lora", bool, True):
        matrices = []
    rank = field(config, path, "r", int, 8)
    if isinstance(rank, bool) or not 1 <= rank <= _MAX_RANK:
        raise InputError(f"{path}: field 'r': expected 1 to {_MAX_RANK:,}, found {shortened(rank)}")
    alpha = field(config, path, "alpha", (int, float), 8)
    if isinstance(alpha, bool) or not abs(alpha) < MAX_FACTOR:
        raise InputError(f"{path}: field 'alpha': expected a number, found {shortened(alpha)}")
    return LoRAConfig(
        tuple(name for name in THIRDS if name in matrices),
        field(config, path, "intermediate_lora", bool, False),
        field(config, path, "output_lora", bool, False),
        _leave_out(config, path),
        rank,
        1.0 if _is_faulty(checkpoint) else alpha / rank,
    )


def _leave_out(config: Mapping[str, Any], path: Path) -> frozenset[int]:
    numbers = field(config, path, "leave_out", list, None) or []
    if wrong := [number for number in numbers if type(number) is not int]:
        raise InputError(f"{path}: field 'leave_out': expected a list of layer numbers, found {shortened(wrong[0])}")
    return frozenset(numbers)


def _is_faulty(checkpoint: Checkpoint) -> bool:
    version = _VERSION.match(str(checkpoint.config.get("version", "")))
    return version is not None and (int(version[1]), int(version[2])) < _FAULTY_BEFORE
