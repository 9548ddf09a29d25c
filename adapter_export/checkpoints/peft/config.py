"""Checks the fields of PEFT's `adapter_config.json` that all of its methods have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.bounded.child import Exceeded, Failed
from adapter_export.bounded.programs import matching
from adapter_export.errors import InputError
from adapter_export.reading.fields import field
from adapter_export.reading.shown import shortened

CONFIG = "adapter_config.json"

# Modules: a list of names, or one regular expression.
Patterns = tuple[str, ...] | str

# PEFT's tasks, each with the modules that PEFT trains and saves for it even if the config does not name them.
TASK_HEADS: Mapping[str | None, tuple[str, ...]] = {
    None: (),
    "CAUSAL_LM": (),
    "FEATURE_EXTRACTION": (),
    "QUESTION_ANS": ("qa_outputs",),
    "SEQ_2_SEQ_LM": (),
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
}
# Fields that do not change what the adapter computes, with their types.
INERT: Mapping[str, type] = {
    "auto_mapping": dict,
    "base_model_name_or_path": str,
    "inference_mode": bool,
    "peft_version": str,
    "revision": str,
}
FIELDS = frozenset({"peft_type", "task_type", "target_modules", "exclude_modules", "modules_to_save"})


@dataclass(frozen=True)
class PeftConfig:
    """The settings of a config that all methods have.

    Attributes:
        targets: Modules to adapt; None if the config leaves them to PEFT's defaults.
        excluded: Modules that are not adapted although `targets` includes them.
        saved: Ends of the names of modules that are trained and saved as a whole.
    """

    targets: Patterns | None
    excluded: Patterns
    saved: tuple[str, ...]


def parse(config: Mapping[str, Any], path: Path, inert: Mapping[str, type]) -> PeftConfig:
    """Checks the common fields of a config.

    Args:
        config: The config.
        path: The file that it is from.
        inert: Fields without effect, with their types.

    Raises:
        InputError: A field has a value that PEFT would not take either.
    """
    task = field(config, path, "task_type", str, None)
    if task not in TASK_HEADS:
        known = ", ".join(name for name in TASK_HEADS if name is not None)
        raise InputError(f"{path}: field 'task_type': expected one of {known}, found {shortened(task)}")
    for name, expected in {**INERT, **inert}.items():
        field(config, path, name, expected, None)
    saved = (*(_strings(config, path, "modules_to_save", list) or ()), *TASK_HEADS[task])
    # PEFT puts each name into a regular expression, without escaping it.
    _check_regex(path, "modules_to_save", *saved)
    return PeftConfig(patterns(config, path, "target_modules"), patterns(config, path, "exclude_modules") or (), saved)


def patterns(config: Mapping[str, Any], path: Path, name: str) -> Patterns | None:
    """Returns a field of names or of one expression; None if it is not set. Raises InputError for any other value."""
    value: Patterns | None = _strings(config, path, name, (list, str))
    if isinstance(value, str):
        _check_regex(path, name, value)
    return value


def _strings(config: Mapping[str, Any], path: Path, name: str, kind: Any) -> Any:
    value = field(config, path, name, kind, None)
    if isinstance(value, list):
        if wrong := [item for item in value if not isinstance(item, str)]:
            raise InputError(f"{path}: field {name!r}: expected a list of strings, found {shortened(wrong[0])} in it")
        return tuple(value)
    return value


def _check_regex(path: Path, name: str, *expressions: str) -> None:
    try:
        matching(expressions, [])
    except Failed as error:
        raise InputError(f"{path}: field {name!r}: not a regular expression: {error}") from None
    except Exceeded as error:
        raise InputError(f"{path}: field {name!r}: a regular expression that {error}") from None
