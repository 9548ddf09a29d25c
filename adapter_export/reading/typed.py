"""Converts JSON values to frozen dataclasses. All types are checked, and errors name the field."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from adapter_export.reading.shown import shortened


class WrongField(Exception):
    """Says which field is wrong, what was expected and what was found."""


def build(kind: Any, value: Any, field: str = "") -> Any:
    """Returns a value as a given type.

    Args:
        kind: A dataclass, `tuple[X, ...]`, `Mapping[str, X]`, str, int, float, an enum of strings, a union of
            these, or a type with its allowed values (`reading.declared`).
        value: The JSON value.
        field: Name of the field, for error messages.

    Raises:
        WrongField: The value is of another type, or not allowed.
    """
    origin, of = get_origin(kind), get_args(kind)
    if origin is Annotated:
        built = build(of[0], value, field)
        if not of[1].allows(built):
            raise WrongField(f"field {field!r}: expected {of[1]}, found {shortened(value)}")
    elif origin in (types.UnionType, Union):
        built = _union(of, value, field)
    elif origin is tuple:
        built = tuple(build(of[0], element, f"{field}[{i}]") for i, element in enumerate(_expect(list, value, field)))
    elif origin is Mapping:
        items = _expect(dict, value, field).items()
        built = {key: build(of[1], element, f"{field}.{key}") for key, element in items}
    elif dataclasses.is_dataclass(kind):
        built = _dataclass(kind, value, field)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        built = _member(kind, value, field)
    elif kind is float and type(value) is int:
        built = _float(value, field)
    else:
        built = _expect(kind, value, field)
    return built


def _expect(kind: type, value: Any, field: str) -> Any:
    # `type`, not `isinstance`, as true and false are instances of int.
    if type(value) is not kind:
        names = {dict: "object", list: "list", type(None): "null"}
        expected, found = names.get(kind, kind.__name__), names.get(type(value), type(value).__name__)
        raise WrongField(f"field {field!r}: expected {expected}, found {found}")
    return value


def _member(kind: type[Enum], value: Any, field: str) -> Any:
    known = {str(member.value): member for member in kind}
    if (word := _expect(str, value, field)) not in known:
        raise WrongField(f"field {field!r}: expected one of {', '.join(known)}, found {shortened(value)}")
    return known[word]


def _float(value: int, field: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise WrongField(f"field {field!r}: expected float, found {shortened(value)}") from None


def _union(kinds: tuple[Any, ...], value: Any, field: str) -> Any:
    for kind in kinds:
        if type(value) is (get_args(kind)[0] if get_origin(kind) is Annotated else kind):
            return build(kind, value, field)
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    for kind in kinds[:-1]:
        try:
            return build(kind, value, field)
        except WrongField:
            continue
    return build(kinds[-1], value, field)


# Cached, as evaluating annotations takes most of the time of reading a manifest, which has many sites.
_hints = functools.cache(functools.partial(get_type_hints, include_extras=True))


def _dataclass(kind: Any, value: Any, field: str) -> Any:
    given = _expect(dict, value, field)
    hints = _hints(kind)
    prefix = f"{field}." if field else ""
    known = {item.name: item for item in dataclasses.fields(kind)}
    if unknown := [name for name in given if name not in known]:
        raise WrongField(f"field {prefix + unknown[0]!r} is not known")
    for name, item in known.items():
        if name not in given and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise WrongField(f"field {prefix + name!r} is missing")
    return kind(**{name: build(hints[name], element, prefix + name) for name, element in given.items()})
