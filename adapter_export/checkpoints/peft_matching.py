"""Which modules a PEFT config means (peft 0.21, `tuners/tuners_utils.py`, `tuners/ia3/model.py`, `utils/other.py`).

Names are those of the class that PEFT wrapped: with the prefix of a task class, or without.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from adapter_export.checkpoints.peft_config import Patterns

# In place of names: every linear layer but the output layer, in any case of letters.
_ALL_LINEAR = "all-linear"


def is_all_linear(targets: Patterns) -> bool:
    """Whether the targets are PEFT's shorthand instead of names."""
    return isinstance(targets, str) and targets.lower() == _ALL_LINEAR


def is_target(name: str, targets: Patterns) -> bool:
    """A string is an expression that matches the whole name; a list item is the name or its last parts.

    So `output.dense` means BERT's `attention.output.dense` as well. Excluded modules are named in the same way.
    """
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == item or name.endswith(f".{item}") for item in targets)


def is_feedforward(name: str, feedforward: Patterns) -> bool:
    """Whether a target is scaled at its input: as `is_target`, but list items match by plain `endswith`."""
    if isinstance(feedforward, str):
        return re.fullmatch(feedforward, name) is not None
    return any(name.endswith(item) for item in feedforward)


def is_saved(name: str, saved: Iterable[str]) -> bool:
    """Whether a module, or one around it, is saved whole: its name ends with an item, even in mid-word."""
    parts = name.split(".")
    return any(".".join(parts[:end]).endswith(item) for end in range(1, len(parts) + 1) for item in saved)


def is_withheld(name: str, saved: Iterable[str]) -> bool:
    """Whether a module is never a target since it is, or lies in, one that is saved whole.

    By PEFT's own rule here, which is not that of `is_saved`: an item is an expression for whole parts of the name.
    """
    return any(re.match(rf"(^|.*\.){item}($|\..*)", name) for item in saved)
