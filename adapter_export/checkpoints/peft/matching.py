"""Which modules a PEFT config means (peft 0.21, `tuners/tuners_utils.py`, `tuners/ia3/model.py`, `utils/other.py`).

Names are those of the class that PEFT wrapped: with the prefix of a task class, or without.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from adapter_export.bounded.programs import matching
from adapter_export.checkpoints.peft.config import Patterns

# In place of names: every linear layer but the output layer, in any case of letters.
_ALL_LINEAR = "all-linear"
_WORD = re.compile(r"\w+")


def is_all_linear(targets: Patterns) -> bool:
    """Whether the targets are PEFT's shorthand instead of names."""
    return isinstance(targets, str) and targets.lower() == _ALL_LINEAR


def targeted(names: Iterable[str], targets: Patterns) -> set[str]:
    """Those of the names that are targets. A string is an expression that matches the whole name; a list item is the
    name or its last parts.

    So `output.dense` means BERT's `attention.output.dense` as well. Excluded modules are named in the same way.
    Raises Exceeded for an expression that runs away.
    """
    if isinstance(targets, str):
        return matching([targets], names)
    items = set(targets)
    return {name for name in names if not items.isdisjoint(_endings(name))}


def scaled_at_input(names: Iterable[str], feedforward: Patterns) -> set[str]:
    """Those of the targets that are scaled at their input: as `targeted`, but list items match by plain `endswith`."""
    if isinstance(feedforward, str):
        return matching([feedforward], names)
    items = set(feedforward)
    return {name for name in names if _ends_with_one(name, items)}


def is_saved(name: str, saved: Iterable[str]) -> bool:
    """Whether a module, or one around it, is saved whole: its name ends with an item, even in mid-word."""
    parts, items = name.split("."), set(saved)
    return any(_ends_with_one(".".join(parts[:end]), items) for end in range(1, len(parts) + 1))


def withheld(names: Iterable[str], saved: Iterable[str]) -> set[str]:
    """Those of the names that are never targets since they are, or lie in, modules that are saved whole.

    By PEFT's own rule here, which is not that of `is_saved`: an item is an expression for whole parts of the name.
    Raises Exceeded as `targeted`, and Failed for what is no expression.
    """
    listed, items = list(names), set(saved)
    # Most items are plain words, and mean themselves.
    words = {item for item in items if _WORD.fullmatch(item)}
    found = {name for name in listed if not words.isdisjoint(name.split("."))}
    if expressions := sorted(items - words):
        found |= matching([rf"(^|.*\.){item}($|\..*)" for item in expressions], listed, whole=False)
    return found


def _ends_with_one(name: str, items: set[str]) -> bool:
    return any(name[place:] in items for place in range(len(name) + 1))


def _endings(name: str) -> Iterator[str]:
    """The name, and what follows each of its dots."""
    yield name
    for place, letter in enumerate(name):
        if letter == ".":
            yield name[place + 1 :]
