"""LoRA in PEFT's format.

Tensors are `<module path>.lora_A.weight` and `.lora_B.weight`, or `.lora_embedding_A` and `.lora_embedding_B`; their
shapes are in `lora_matrices.py`. PEFT multiplies their product by alpha / rank, or by alpha / sqrt(rank) with
`use_rslora`. Both may differ by module.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from adapter_export.checkpoints.adapter import OUTPUT_LAYERS, Adapter, Checkpoint, site_features
from adapter_export.checkpoints.peft.config import CONFIG, PeftConfig
from adapter_export.checkpoints.peft.defaults import LORA_DEFAULTS
from adapter_export.checkpoints.peft.lora_matrices import PARTS, LayerKind, kind_at, kind_of
from adapter_export.checkpoints.peft.lora_settings import check, chosen_layers, scales
from adapter_export.checkpoints.peft.matching import is_all_linear, targeted
from adapter_export.checkpoints.peft.targets import check_targets, or_default, path_of
from adapter_export.errors import InputError
from adapter_export.methods.contract import SiteAdapter
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Port, Site

__all__ = ["ADAPTER_NAME", "FIELDS", "INERT", "KEY", "PEFT_TYPE", "check", "site_adapters", "write"]

PEFT_TYPE = "LORA"
FIELDS = frozenset(
    {"alpha_pattern", "bias", "layers_pattern", "layers_to_transform", "lora_alpha", "r", "rank_pattern", "use_rslora"}
)
# Dropout acts in training alone. fan_in_fan_out says how the layer stores its weight; PEFT looks at the layer instead.
INERT: Mapping[str, Any] = {
    "ensure_weight_tying": bool,
    "eva_config": dict,
    "fan_in_fan_out": bool,
    "init_lora_weights": (bool, str),
    "loftq_config": dict,
    "lora_dropout": (int, float),
    "lora_ga_config": dict,
    "megatron_config": dict,
    "megatron_core": str,
    "qalora_group_size": int,
    "runtime_config": dict,
}
KEY = re.compile(r"(?P<module>.*)\.lora_(?P<part>\w+(\.\w+)?)")
ADAPTER_NAME = re.compile(r"(?<=\.lora_[AB])\.[^.]+(?=\.weight$)|(?<=\.lora_embedding_[AB])\.[^.]+$")


def site_adapters(
    checkpoint: Checkpoint, config: PeftConfig, info: ModelInfo
) -> tuple[dict[Site, SiteAdapter], tuple[str, ...]]:
    """Returns the matrices by site, and notes on matrices without effect."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in checkpoint.tensors.items():
        if (match := KEY.fullmatch(name)) is not None:
            if match["part"] not in PARTS:
                raise InputError(
                    f"{checkpoint.folder}: tensor {name!r}: expected lora_A.weight and lora_B.weight only, or "
                    "lora_embedding_A and lora_embedding_B"
                )
            parts.setdefault(match["module"], {})[match["part"]] = tensor
    if not parts:
        raise InputError(f"{checkpoint.folder}: expected tensors named *.lora_A.weight, found none")
    path = checkpoint.folder / CONFIG
    targets = or_default(config.targets, LORA_DEFAULTS.get(info.model_type), "target_modules", checkpoint, info)
    layers = None if isinstance(targets, str) and not is_all_linear(targets) else chosen_layers(checkpoint.config, path)
    check_targets(checkpoint, config, targets, info, parts, ".lora_*", layers)
    scale_of = scales(checkpoint, list(parts))
    found, idle = {}, []
    for name, matrices in parts.items():
        module = path_of(name, info)
        if module in info.unread:
            idle.append(f"{name}.lora_{min(matrices)}")
            continue
        site = Site(module, Port.BRANCH)
        kind = _kind(checkpoint, info, site, name, next(iter(matrices)))
        a, b = _matrices(checkpoint, info, site, name, matrices, kind)
        found[site] = SiteAdapter(kind.operator, kind.read(a, b), strength=scale_of[name](len(a)))
    notes = (
        f"tensor {name!r} has no effect: no output reads its module, which the base model's checkpoint lacks"
        for name in idle
    )
    return found, tuple(notes)


def write(adapter: Adapter, info: ModelInfo) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the matrices in PEFT's shapes, and config fields that name exactly the adapter's sites."""
    tensors, ranks, alphas = {}, {}, {}
    for site, site_adapter in adapter.sites.items():
        kind = kind_of(site_adapter.operator)
        a, b = kind.write(site_adapter.tensors)
        for part, tensor in zip(kind.names, (a, b), strict=True):
            tensors[f"{site.module}.lora_{part}"] = tensor
        ranks[site.module], alphas[site.module] = len(a), _whole(site_adapter.strength * len(a))
    rank, alpha = _usual(ranks), _usual(alphas)
    return tensors, {
        "alpha_pattern": {_exactly(name): value for name, value in alphas.items() if value != alpha},
        "bias": "none",
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "r": rank,
        "rank_pattern": {_exactly(name): value for name, value in ranks.items() if value != rank},
        "target_modules": _targets(adapter, info),
        "use_dora": False,
        "use_rslora": False,
    }


def _kind(checkpoint: Checkpoint, info: ModelInfo, site: Site, name: str, part: str) -> LayerKind:
    """Returns the kind of the layer at a site. Raises InputError if LoRA cannot change it."""
    where = f"{checkpoint.folder}: tensor '{name}.lora_{part}'"
    if site.module in info.head:
        raise InputError(
            f"{where} changes the task head, which is swapped as a whole; train again with {site.module!r} in PEFT's "
            "modules_to_save or exclude_modules"
        )
    if site.module in OUTPUT_LAYERS and site.module not in info.modules:
        raise InputError(
            f"{where} changes the output layer, which is not supported in any mode, merged or not; train again with "
            f"{site.module!r} in PEFT's exclude_modules"
        )
    if (kind := kind_at(site.module, info)) is not None:
        return kind
    if site.module not in info.modules:
        # Names the modules that are close.
        site_features(checkpoint, info, site)
    known = info.embeddings or info.kernels
    hint = "" if known else "; of a finished graph or an older bundle, linear layers alone are known"
    raise InputError(
        f"{where}: expected a linear layer, or a convolution or an embedding that has a weight of its own and computes "
        f"what PyTorch's class computes{hint}"
    )


def _matrices(
    checkpoint: Checkpoint, info: ModelInfo, site: Site, name: str, matrices: Mapping[str, np.ndarray], kind: LayerKind
) -> tuple[np.ndarray, np.ndarray]:
    """Returns A and B of a module. Raises InputError if they do not fit it."""
    if missing := [part for part in kind.names if part not in matrices]:
        others = ", ".join(f"lora_{part}" for part in matrices)
        raise InputError(f"{checkpoint.folder}: tensor '{name}.lora_{missing[0]}' is missing; found {others}")
    a, b = (matrices[part] for part in kind.names)
    features = info.features(site)
    shapes = kind.shapes(features, a.shape[0] if a.ndim else 0)
    for part, found, expected in zip(kind.names, (a.shape, b.shape), shapes, strict=True):
        if found != expected or not all(expected):
            # The weight of a convolution has the inputs of one group only.
            grouped = site.module in info.convolutions and expected[2:] == found[2:] and a.shape[1] > features.inputs
            hint = "; LoRA of a convolution in groups is not merged, only exported by `onnx`" if grouped else ""
            raise InputError(
                f"{checkpoint.folder}: tensor '{name}.lora_{part}': expected shape {expected} for this base model, "
                f"found {found}{hint}"
            )
    return a, b


def _whole(value: float) -> float | int:
    rounded = round(value, 9)
    return int(rounded) if rounded == int(rounded) else rounded


def _usual(values: Mapping[str, Any]) -> Any:
    return Counter(values.values()).most_common(1)[0][0]


def _exactly(module: str) -> str:
    return re.escape(module)


def _targets(adapter: Adapter, info: ModelInfo) -> list[str] | str:
    """Returns target_modules that name exactly the adapter's sites."""
    modules = sorted(site.module for site in adapter.sites)
    if targeted((module for module in info.modules if module), tuple(modules)) == set(modules):
        return modules
    # A name is the end of another name. Regular expressions match whole names.
    return rf"({re.escape(info.prefix)}\.)?({'|'.join(map(re.escape, modules))})"
