"""The settings of LoRA in PEFT's config: the scale of each module, the layers that are adapted, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adapter_export.bounded.child import Exceeded, Failed
from adapter_export.bounded.programs import matching
from adapter_export.checkpoints.adapter import Checkpoint
from adapter_export.checkpoints.peft.config import CONFIG
from adapter_export.errors import InputError
from adapter_export.reading.fields import field
from adapter_export.reading.shown import shortened

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
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
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
    chosen_layers(config, path)


def scales(checkpoint: Checkpoint, names: list[str]) -> dict[str, Callable[[int], float]]:
    """Returns, by module, the function from its rank to its scale. Raises InputError for a rank that is not the
    config's.
    """
    config, path = checkpoint.config, checkpoint.folder / CONFIG
    ranks = _by_module(config, path, "rank_pattern", names, field(config, path, "r", int, 8))
    alphas = _by_module(config, path, "alpha_pattern", names, _number(config, path, "lora_alpha", 8))
    rslora = field(config, path, "use_rslora", bool, False)

    def scale_of(name: str) -> Callable[[int], float]:
        def scale(rank: int) -> float:
            if rank != ranks[name]:
                raise InputError(
                    f"{checkpoint.folder}: tensors '{name}.lora_*': expected rank {ranks[name]}, as the config says, "
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


def chosen_layers(config: Mapping[str, Any], path: Path) -> Callable[[str], bool] | None:
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
