"""Class names: whose they are, and which of several win."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adapter_export import tasks

# What transformers calls classes without names.
PLACEHOLDERS = ("LABEL_0", "LABEL_1")
_PLACEHOLDER = re.compile(r"LABEL_\d+")


def has_own_head(config: Mapping[str, Any], task: str) -> bool:
    """Whether a head that a base model's folder holds may be one for `task`. config: of the model.

    A head for another task can have the same names: a classifier of tokens is none of whole texts.
    """
    saved = tasks.of_config(config)
    return saved == task or (saved not in tasks.UNSERVED and not tasks.is_labelled(saved))


def class_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names in a model's `id2label`, in the order of its classes; None where it has none of its own."""
    id2label = config.get("id2label")
    if not isinstance(id2label, Mapping) or not id2label:
        return None
    names = {str(number): name for number, name in id2label.items()}
    ordered = [names.get(str(number)) for number in range(len(names))]
    if not all(isinstance(name, str) for name in ordered) or all(_PLACEHOLDER.fullmatch(str(n)) for n in ordered):
        return None
    return tuple(str(name) for name in ordered)
