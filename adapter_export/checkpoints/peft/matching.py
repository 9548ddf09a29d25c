"""Finds the modules that a PEFT config names (peft 0.21, `tuners/tuners_utils.py`, `tuners/ia3/model.py`,
`utils/other.py`).

Names are those of the class that PEFT wrapped: with the prefix of a task class, or without.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from adapter_export.bounded.programs import matching
from adapter_export.checkpoints.peft.config import Patterns

# In place of names, this means every linear layer but the output layer. Upper and lower case do not matter.
_ALL_LINEAR = "all-linear"
_WORD = re.compile(r"\w+")


def is_all_linear(targets: Patterns) -> bool:
    """Returns whether the targets are PEFT's shorthand for all linear layers."""
    return isinstance(targets, str) and targets.lower() == _ALL_LINEAR


def targeted(names: Iterable[str], targets: Patterns) -> set[str]:
    """Returns those of the names that are targets. Excluded modules are found in the same way.

    A string is a regular expression that must match the whole name. An item of a list is the whole name or its last
    parts, so `output.dense` also means BERT's `attention.output.dense`.

    Raises:
        Exceeded: Matching a regular expression takes too long.
    """
    if isinstance(targets, str):
        return matching([targets], names)
    items = set(targets)
    return {name for name in names if not items.isdisjoint(_endings(name))}


def scaled_at_input(names: Iterable[str], feedforward: Patterns) -> set[str]:
    """Returns those of the targets that are scaled at their input: as `targeted`, but list items match by
    `endswith`.
    """
    if isinstance(feedforward, str):
        return matching([feedforward], names)
    items = set(feedforward)
    return {name for name in names if _ends_with_one(name, items)}


def is_saved(name: str, saved: Iterable[str]) -> bool:
    """Returns whether a module, or one around it, is saved as a whole: its name ends with an item, even within a
    word.
    """
    parts, items = name.split("."), set(saved)
    return any(_ends_with_one(".".join(parts[:end]), items) for end in range(1, len(parts) + 1))


def withheld(names: Iterable[str], saved: Iterable[str]) -> set[str]:
    """Returns those of the names that are never targets, as they are saved as a whole or lie in modules that are.

    PEFT's rule here is not that of `is_saved`: an item is a regular expression for whole parts of the name.

    Raises:
        Exceeded: Matching takes too long.
        Failed: An item is no regular expression.
    """
    listed, items = list(names), set(saved)
    # Most items are plain words, which match themselves only.
    words = {item for item in items if _WORD.fullmatch(item)}
    found = {name for name in listed if not words.isdisjoint(name.split("."))}
    if expressions := sorted(items - words):
        found |= matching([rf"(^|.*\.){item}($|\..*)" for item in expressions], listed, whole=False)
    return found


def _ends_with_one(name: str, items: set[str]) -> bool:
    return any(name[place:] in items for place in range(len(name) + 1))


def _endings(name: str) -> Iterator[str]:
    """Yields the name, and the part behind each of its dots."""
    yield name
    for place, letter in enumerate(name):
        if letter == ".":
            yield name[place + 1 :]
