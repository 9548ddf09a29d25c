"""JSON values to frozen dataclasses, with every type checked and every mistake named by its field."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints


class WrongField(Exception):
    """A field, what was expected there and what was found."""


def build(kind: Any, value: Any, field: str = "") -> Any:
    """`value` as `kind`: a dataclass, `tuple[X, ...]`, `Mapping[str, X]`, str, int, float, or a union of such.

    Raises WrongField naming the field, what was expected and what was found.
    """
    origin = get_origin(kind)
    if origin is types.UnionType:
        return _union(get_args(kind), value, field)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, field)
    if origin is tuple:
        item = get_args(kind)[0]
        return tuple(build(item, element, f"{field}[{i}]") for i, element in enumerate(_expect(list, value, field)))
    if origin is Mapping:
        item = get_args(kind)[1]
        return {key: build(item, element, f"{field}.{key}") for key, element in _expect(dict, value, field).items()}
    if kind is float and type(value) is int:
        return float(value)
    return _expect(kind, value, field)


def _expect(kind: type, value: Any, field: str) -> Any:
    # `type`, not `isinstance`: true and false are ints to Python.
    if type(value) is not kind:
        names = {dict: "object", list: "list", type(None): "null"}
        expected, found = names.get(kind, kind.__name__), names.get(type(value), type(value).__name__)
        raise WrongField(f"field {field!r}: expected {expected}, found {found}")
    return value


def _union(kinds: tuple[Any, ...], value: Any, field: str) -> Any:
    if type(value) in kinds:
        return value
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    for kind in kinds[:-1]:
        try:
            return build(kind, value, field)
        except WrongField:
            continue
    return build(kinds[-1], value, field)


# Evaluating annotations takes most of the time of reading a manifest, whose sites are many.
_hints = functools.cache(get_type_hints)


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
