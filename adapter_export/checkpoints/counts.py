"""Checks counts in a model's config. Layers, experts and classes are made one by one, before any weight is read, so a
wrong count could take any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError
from adapter_export.reading.shown import shortened

# At least ten times what published models have: hundreds of layers, 16,384 experts, a class for each product of a shop.
_MOST = {
    re.compile(r"(.*_)?num_(.*_)?(layers|blocks)|n_layers?|(encoder|decoder)_layers|depths?"): 10_000,
    re.compile(r"(.*_)?experts"): 200_000,
    re.compile(r"num_(labels|classes)"): 1_000_000,
}


def check_counts(config: Mapping[str, Any], path: Path) -> None:
    """Checks the counts in a config, and in configs nested in it.

    Args:
        config: The config.
        path: The file that it is from.

    Raises:
        InputError: A count is larger than in any model. The error names the field.
    """
    for name, value in _numbers(config):
        for pattern, most in _MOST.items():
            if pattern.fullmatch(name.rpartition(".")[2]) and not 0 <= value <= most:
                raise InputError(f"{path}: field {name!r}: expected 0 to {most:,}, found {shortened(value)}")


def _numbers(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yields whole numbers by their fields, also those in lists and in nested configs."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{name}.")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int) and not isinstance(item, bool):
                yield name, item
