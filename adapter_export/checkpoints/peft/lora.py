"""LoRA in PEFT's format.

Tensors are `<module path>.lora_A.weight` (rank, in) and `<module path>.lora_B.weight` (out, rank). PEFT multiplies
their product by alpha / rank, or by alpha / sqrt(rank) with `use_rslora`. Both may differ by module.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.bounded.child import Exceeded, Failed
from adapter_export.bounded.programs import matching
from adapter_export.checkpoints.adapter import OUTPUT_LAYERS, Adapter, Checkpoint, site_features
from adapter_export.checkpoints.peft.config import CONFIG, PeftConfig
from adapter_export.checkpoints.peft.defaults import LORA_DEFAULTS
from adapter_export.checkpoints.peft.matching import is_all_linear, targeted
from adapter_export.checkpoints.peft.targets import check_targets, or_default, path_of
from adapter_export.errors import InputError
from adapter_export.methods.contract import SiteAdapter
from adapter_export.methods.lora import LoRAOperator
from adapter_export.modelinfo import ModelInfo
from adapter_export.reading.fields import field
from adapter_export.reading.shown import shortened
from adapter_export.sites import Port, Site

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
ADAPTER_NAME = re.compile(r"(?<=\.lora_[AB])\.[^.]+(?=\.weight$)")
_A, _B = "A.weight", "B.weight"
# Fields that change what the adapter computes, and why an adapter that uses them is refused.
_REFUSED: Mapping[str, str] = {
    "alora_invocation_tokens": "an adapter that acts on a part of the tokens only has no graph of its own",
    "arrow_config": "a router between several adapters is not an adapter",
    "corda_config": "this start changes the base model's weights",
    "kasa_config": "this start changes the base model's weights",
    "layer_replication": "the adapter belongs to a model with other layers",
    "lora_bias": "a bias of lora_B is not supported",
    "monteclora_config": "a change that is drawn at random has no fixed value",
    "target_parameters": "changes of parameters that are no linear layers, as of experts, are not supported",
    "trainable_token_indices": "embeddings of single tokens are no part of an exported graph",
    "use_bdlora": "block-diagonal matrices are not supported",
    "use_dora": "DoRA divides by norms of the merged weight, which `add` and a swappable graph do not have",
    "use_qalora": "this variant changes the input of the layer",
    "velora_config": "this variant is not supported",
}
# What `init_lora_weights` may be: each of these starts leaves the base model's weights as they are.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "lora_ga")
_NO_BIAS = "none"
_WORD = re.compile(r"\w+")


def check(config: Mapping[str, Any], path: Path) -> None:
    """Checks the method's own fields. Raises InputError that names the field and, if it is not supported, why."""
    for name, reason in _REFUSED.items():
        if config.get(name):
            raise InputError(f"{path}: field {name!r}: {reason}")
    if (bias := field(config, path, "bias", str, _NO_BIAS)) != _NO_BIAS:
        raise InputError(
            f"{path}: field 'bias': expected 'none', found {shortened(bias)}: biases of the base model that were "
            "trained with the adapter are not supported"
        )
    if (start := config.get("init_lora_weights")) not in _PLAIN_STARTS:
        raise InputError(
            f"{path}: field 'init_lora_weights': {shortened(start)} changes the base model's weights; convert the "
            "adapter to plain LoRA when saving it (PEFT: path_initial_model_for_weight_conversion)"
        )
    if field(config, path, "r", int, 8) < 1:
        raise InputError(f"{path}: field 'r': expected at least 1, found {shortened(config['r'])}")
    field(config, path, "use_rslora", bool, False)
    _number(config, path, "lora_alpha", 8)
    for name in ("rank_pattern", "alpha_pattern"):
        for key, value in (field(config, path, name, dict, None) or {}).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
                raise InputError(f"{path}: field {name!r}: expected numbers above 0, found {shortened({key: value})}")
    _layers(config, path)


def site_adapters(
    checkpoint: Checkpoint, config: PeftConfig, info: ModelInfo
) -> tuple[dict[Site, SiteAdapter], tuple[str, ...]]:
    """Returns the matrices by site, and notes on matrices without effect."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in checkpoint.tensors.items():
        if (match := KEY.fullmatch(name)) is not None:
            if match["part"] not in (_A, _B):
                raise InputError(f"{checkpoint.folder}: tensor {name!r}: expected lora_A.weight and lora_B.weight only")
            parts.setdefault(match["module"], {})[match["part"]] = tensor
    if not parts:
        raise InputError(f"{checkpoint.folder}: expected tensors named *.lora_{_A}, found none")
    path = checkpoint.folder / CONFIG
    targets = or_default(config.targets, LORA_DEFAULTS.get(info.model_type), "target_modules", checkpoint, info)
    layers = None if isinstance(targets, str) and not is_all_linear(targets) else _layers(checkpoint.config, path)
    check_targets(checkpoint, config, targets, info, parts, f".lora_{_A}", layers)
    scales = _scales(checkpoint, list(parts))
    found, idle = {}, []
    for name, matrices in parts.items():
        module = path_of(name, info)
        if module in info.unread:
            idle.append(name)
            continue
        site = Site(module, Port.BRANCH)
        a, b = _matrices(checkpoint, info, site, name, matrices)
        found[site] = SiteAdapter(LoRAOperator(), {"a": a.T, "b": b.T}, strength=scales[name](len(a)))
    notes = (
        f"tensor '{name}.lora_{_A}' has no effect: no output reads its module, which the base model's checkpoint lacks"
        for name in idle
    )
    return found, tuple(notes)


def write(adapter: Adapter, info: ModelInfo) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the matrices in PEFT's shapes, and config fields that name exactly the adapter's sites."""
    tensors, ranks, alphas = {}, {}, {}
    for site, site_adapter in adapter.sites.items():
        a, b = site_adapter.tensors["a"], site_adapter.tensors["b"]
        tensors[f"{site.module}.lora_{_A}"] = np.ascontiguousarray(a.T)
        tensors[f"{site.module}.lora_{_B}"] = np.ascontiguousarray(b.T)
        ranks[site.module], alphas[site.module] = a.shape[1], _whole(site_adapter.strength * a.shape[1])
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


def _matrices(
    checkpoint: Checkpoint, info: ModelInfo, site: Site, name: str, matrices: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns A (rank, in) and B (out, rank) of a module. Raises InputError if they do not fit it."""
    where = f"{checkpoint.folder}: tensor '{name}.lora_{_A}'"
    if missing := [part for part in (_A, _B) if part not in matrices]:
        raise InputError(f"{checkpoint.folder}: tensor '{name}.lora_{missing[0]}' is missing")
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
    features = site_features(checkpoint, info, site)
    if site.module not in info.inputs or site.module in info.convolutions:
        raise InputError(f"{where}: expected a linear layer; LoRA of convolutions and embeddings is not supported")
    a, b = matrices[_A], matrices[_B]
    for part, found, expected in (
        (_A, a.shape, (a.shape[0] if a.ndim else 0, features.inputs)),
        (_B, b.shape, (features.outputs, a.shape[0] if a.ndim else 0)),
    ):
        if found != expected or not all(expected):
            raise InputError(
                f"{checkpoint.folder}: tensor '{name}.lora_{part}': expected shape {expected} for this base model, "
                f"found {found}"
            )
    return a, b


def _scales(checkpoint: Checkpoint, names: list[str]) -> dict[str, Any]:
    """Returns, by module, the function from its rank to its scale. Raises InputError for a rank that is not the
    config's.
    """
    config, path = checkpoint.config, checkpoint.folder / CONFIG
    ranks = _by_module(config, path, "rank_pattern", names, field(config, path, "r", int, 8))
    alphas = _by_module(config, path, "alpha_pattern", names, _number(config, path, "lora_alpha", 8))
    rslora = field(config, path, "use_rslora", bool, False)

    def scale_of(name: str) -> Any:
        def scale(rank: int) -> float:
            if rank != ranks[name]:
                raise InputError(
                    f"{checkpoint.folder}: tensor '{name}.lora_{_A}': expected rank {ranks[name]}, as the config says, "
                    f"found {rank}"
                )
            return float(alphas[name]) / (math.sqrt(rank) if rslora else rank)

        return scale

    return {name: scale_of(name) for name in names}


def _by_module(
    config: Mapping[str, Any], path: Path, name: str, modules: list[str], default: float
) -> dict[str, float]:
    """Returns the value of each module: that of the first expression of the field `name` that its path ends with."""
    found: dict[str, float] = {}
    for key, value in (field(config, path, name, dict, None) or {}).items():
        try:
            for module in matching([rf"(.*\.)?({key})"], [one for one in modules if one not in found]):
                found[module] = value
        except (Exceeded, Failed) as error:
            raise InputError(f"{path}: field {name!r}: a regular expression that {error}") from None
    return {module: found.get(module, default) for module in modules}


def _layers(config: Mapping[str, Any], path: Path) -> Any:
    """Returns a function that says whether a module is in one of the layers of `layers_to_transform`; None without.

    Raises:
        InputError: A field has a value that PEFT would not take either, or `layers_pattern` is an expression.
    """
    layers = field(config, path, "layers_to_transform", (list, int), None)
    names = field(config, path, "layers_pattern", (list, str), None)
    names = [names] if isinstance(names, str) else names or []
    if wrong := [name for name in names if not isinstance(name, str) or (name and not _WORD.fullmatch(name))]:
        raise InputError(f"{path}: field 'layers_pattern': expected plain names, found {shortened(wrong[0])}")
    numbers = layers if isinstance(layers, list) else [] if layers is None else [layers]
    if wrong := [number for number in numbers if type(number) is not int]:
        raise InputError(f"{path}: field 'layers_to_transform': expected numbers, found {shortened(wrong[0])}")
    if not numbers:
        return None
    words = [name for name in names if name]

    def chosen(module: str) -> bool:
        """PEFT takes the first number in the path that follows a name, of `layers_pattern` if that is set."""
        parts = module.split(".")
        for word in words or [None]:
            for index, part in enumerate(parts[:-1]):
                follows = index > 1 if word is None else index > 0 and parts[index - 1] == word
                if follows and part.isdecimal():
                    return int(part) in numbers
        return False

    return chosen


def _number(config: Mapping[str, Any], path: Path, name: str, default: float) -> float:
    value = field(config, path, name, (int, float), default)
    if isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{path}: field {name!r}: expected a number, found {shortened(value)}")
    return float(value)


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
