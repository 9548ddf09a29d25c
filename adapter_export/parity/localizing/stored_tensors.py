"""Compares the tensors that a bundle has for an adapter with those of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from adapter_export.bundle.adapter_file import adapter_tensors
from adapter_export.checkpoints.adapter import Adapter

Arrays = Mapping[str, np.ndarray]

# Largest relative difference of a tensor that was rounded once to its dtype: half a unit in the last place.
_ROUNDED = {2: 2.0**-8, 4: 2.0**-23, 8: 2.0**-50}


def differing(adapter: Adapter, stored: Arrays, start: str) -> Iterator[str]:
    """Yields what is different about the tensors whose names begin with a text, one line each.

    Args:
        adapter: The adapter as it was read from its checkpoint.
        stored: The tensors of the bundle by full name.
        start: The beginning of the names: that of a site or of a layer of the task head.
    """
    for name, value in adapter_tensors(adapter).items():
        if not name.startswith(f"{start}."):
            continue
        found = stored.get(name)
        if found is None:
            yield f"{name} is missing"
        elif found.shape != value.shape:
            yield f"{name} has shape {list(found.shape)}, not {list(value.shape)}"
        elif wrong := difference(found, value):
            yield f"{name} {wrong}"


def difference(stored: np.ndarray, right: np.ndarray) -> str | None:
    """Returns how an array of the bundle differs from the right one of the same shape; None if only by rounding."""
    found, value, limit = np.float64(stored), np.float64(right), _ROUNDED[stored.dtype.itemsize]
    allowed = limit * np.abs(value) + np.finfo(np.float32).tiny

    def same(other: np.ndarray) -> bool:
        return other.shape == value.shape and bool((np.abs(found - other) <= allowed.max()).all())

    if (np.abs(found - value) <= allowed).all():
        return None
    factor = float((found * value).sum() / max(float(np.square(value).sum()), 1e-300))
    if same(factor * value):
        return f"is {factor:.4g} times the right one"
    if value.ndim > 1 and same(value.T):
        return "is transposed"
    rows, own = (sorted(map(tuple, np.atleast_2d(array.T).T.round(6).tolist())) for array in (found, value))
    if rows == own:
        return "has its rows in another order"
    return "has other values"
