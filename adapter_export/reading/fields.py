"""Fields of a JSON object, checked for their types and names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError
from adapter_export.reading.shown import shortened

# The most unknown fields of one file that are named one by one.
_MAX_UNKNOWN = 20


def field(config: Mapping[str, Any], path: Path, name: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
    """Returns one field of an object, of a checked type.

    Args:
        config: The object.
        path: The file that the object is from, for error messages.
        name: The name of the field.
        kind: The type, or the types, that the value may have.
        default: The value where the field is absent. Without a default the field is required.

    Raises:
        InputError: The field is of another type, or is missing and required.
    """
    value = config.get(name, default)
    if value is ...:
        raise InputError(f"{path}: field {name!r} is missing")
    if value is default or isinstance(value, kind):
        return value
    expected = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
    raise InputError(f"{path}: field {name!r}: expected {expected}, found {shortened(value)}")


def unknown_fields(config: Mapping[str, Any], file: str, kind: str, known: Collection[str]) -> tuple[str, ...]:
    """Returns notes for the user on fields that are set and not known: the library that reads the file ignores them.

    Args:
        config: The object.
        file: The name of the file that the object is from.
        kind: What the object configures, for the notes.
        known: The names of the known fields.

    Returns:
        One note for each unknown field, and one for all of those beyond a limit.
    """
    unknown = sorted(name for name, value in config.items() if value and name not in known)
    notes = [
        f"{file}: field {shortened(name)} is unknown for {kind} and has no effect (found {shortened(config[name])})"
        for name in unknown[:_MAX_UNKNOWN]
    ]
    if more := len(unknown) - len(notes):
        notes.append(f"{file}: {more:,} more fields are unknown for {kind} and have no effect")
    return tuple(notes)
