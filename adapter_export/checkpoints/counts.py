"""Counts in a model's config: layers, experts and classes are made one by one, before any weight is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError
from adapter_export.reading.shown import shortened

# Ten times and more what published models have: hundreds of layers, 16,384 experts, classes of whole catalogues.
_MOST = {
    re.compile(r"(.*_)?num_(.*_)?(layers|blocks)|n_layers?|(encoder|decoder)_layers|depths?"): 10_000,
    re.compile(r"(.*_)?experts"): 200_000,
    re.compile(r"num_(labels|classes)"): 1_000_000,
}


def check_counts(config: Mapping[str, Any], path: Path) -> None:
    """Raise InputError, naming the field, for a count in the config read from `path`, or in one nested in it, that no
    model has."""
    for name, value in _numbers(config):
        for pattern, most in _MOST.items():
            if pattern.fullmatch(name.rpartition(".")[2]) and not 0 <= value <= most:
                raise InputError(f"{path}: field {name!r}: expected 0 to {most:,}, found {shortened(value)}")


def _numbers(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    """Whole numbers by their fields, also those in lists and in configs within."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{name}.")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int) and not isinstance(item, bool):
                yield name, item
