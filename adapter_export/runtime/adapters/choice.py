"""What a caller chooses for a run or for a row: an adapter, several at once with strengths, or none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from adapter_export.errors import InputError
from adapter_export.reading.shown import shortened


@dataclass(frozen=True)
class Composition:
    """Several adapters at once, or one adapter with a strength.

    Attributes:
        parts: Pairs of name and strength. 0 is no adapter, 1 the adapter as it was trained. They are sorted by name,
            so that equal compositions compare equal.
        head: Name of the adapter whose task head is used. None if at most one of them has a task head.
    """

    parts: tuple[tuple[str, float], ...]
    head: str | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise InputError("adapter: expected at least one name with a strength, found none")
        for name, strength in self.parts:
            _check(name, strength)
        names = [name for name, _ in self.parts]
        if len(set(names)) < len(names):
            raise InputError(f"adapter: expected each name once, found {', '.join(names)}")
        if self.head is not None and self.head not in names:
            raise InputError(f"head {self.head!r}: expected one of {', '.join(sorted(names))}")
        object.__setattr__(self, "parts", tuple(sorted((name, float(strength)) for name, strength in self.parts)))

    @classmethod
    def of(cls, strengths: Mapping[str, float], *, head: str | None = None) -> Composition:
        """Returns the composition of these adapters.

        Args:
            strengths: The strength of each adapter, by its name.
            head: Name of the adapter whose task head is used.

        Raises:
            InputError: There is no adapter, a strength is not a finite number, or `head` is not one of the adapters.
        """
        return cls(tuple(strengths.items()), head)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters, sorted."""
        return tuple(name for name, _ in self.parts)

    def __str__(self) -> str:
        return ",".join(f"{name}={strength:g}" for name, strength in self.parts)


def _check(name: Any, strength: Any) -> None:
    if not isinstance(name, str):
        raise InputError(f"adapter: expected names, found {shortened(name)}")
    if type(strength) is bool or not isinstance(strength, Real) or not math.isfinite(strength):
        raise InputError(f"adapter {name!r}: expected a finite number as its strength, found {shortened(strength)}")


# How callers choose: a name, strengths by name, a composition; None for the base model.
AdapterChoice = str | Mapping[str, float] | Composition | None
# An adapter or a composition, as the runtime keeps it in memory.
AdapterKey = str | Composition


def chosen(choice: AdapterChoice, head: str | None = None) -> AdapterKey | None:
    """Returns what a caller chose. One adapter with strength 1 is the adapter itself.

    Args:
        choice: The caller's choice.
        head: Name of the adapter whose task head is used, for a composition that does not name one.

    Raises:
        InputError: The choice is not valid, or `head` is given without a composition.
    """
    if isinstance(choice, Mapping):
        choice = Composition.of(choice, head=head)
    if isinstance(choice, Composition):
        if head is not None and choice.head is None:
            choice = replace(choice, head=head)
        (name, strength), *others = choice.parts
        return name if not others and strength == 1 else choice
    if head is not None:
        raise InputError(f"head {head!r}: expected several adapters with strengths, found {choice!r}")
    if choice is not None and not isinstance(choice, str):
        raise InputError(f"adapter: expected a name, or strengths by name, found {choice!r}")
    return choice


def is_composed(choice: AdapterChoice) -> bool:
    """Returns whether a caller chose adapters with strengths."""
    return isinstance(choice, Mapping | Composition)


def names_of(key: AdapterKey) -> tuple[str, ...]:
    """Returns the names of the adapters that a key needs."""
    return key.names if isinstance(key, Composition) else (key,)


def head_among(key: AdapterKey, has_head: Mapping[str, bool]) -> str | None:
    """Returns the adapter whose task head is used; None for the base model's own.

    Args:
        key: The adapter or composition.
        has_head: Whether each of its adapters has a task head, by name.

    Raises:
        InputError: Several have one and none was chosen, or the chosen one has none.
    """
    heads = [name for name in names_of(key) if has_head[name]]
    wanted = key.head if isinstance(key, Composition) else None
    if wanted is not None and wanted not in heads:
        raise InputError(f"head {wanted!r}: this adapter has no task head")
    if wanted is None and len(heads) > 1:
        raise InputError(f"adapters {', '.join(heads)}: each has a task head; choose one of them as head")
    return wanted or next(iter(heads), None)
