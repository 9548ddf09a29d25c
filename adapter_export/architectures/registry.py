"""Architectures by `model_type`. Each module of `families` is imported once, so that a new architecture needs only a
new file there.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from adapter_export.architectures.record import Architecture

_DEFAULT = Architecture()


@cache
def _records() -> dict[str, Architecture]:
    """Returns all records, from the mapping RECORDS of each module."""
    package = importlib.import_module("adapter_export.architectures.families")
    found: dict[str, Architecture] = {}
    for module in pkgutil.iter_modules(package.__path__):
        records = importlib.import_module(f"{package.__name__}.{module.name}").RECORDS
        if twice := found.keys() & records.keys():
            raise ValueError(f"architecture {min(twice)!r} has two records")
        found |= records
    return found


def facts(model_type: str) -> Architecture:
    """Returns the record of a `model_type`; for an unknown one, a record with all defaults."""
    return _records().get(model_type, _DEFAULT)


def recorded() -> dict[str, Architecture]:
    """Returns all records by `model_type`, sorted."""
    return dict(sorted(_records().items()))


def model_types() -> list[str]:
    """Returns the `model_type`s in which adapters are placed by name, sorted."""
    return [name for name, record in recorded().items() if record.stacks]
