"""Converts float64 to the types of stored weights, rounded once to nearest even, and back. It needs numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# The types that stored weights may have: safetensors' name -> dtype in numpy. bfloat16 is held as its bits.
STORED: Mapping[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
# Usual names of these types.
NAMES: Mapping[str, str] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

# The bits of the exponent, which are all ones for infinity and NaN.
_EXPONENTS = {"F16": np.uint16(0x7C00), "BF16": np.uint16(0x7F80)}


def widened(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Returns values held as `STORED[dtype]` as float64, exactly."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Rounds float64 values to the nearest `dtype`, ties to even. Overflow gives infinity.

    A cast by way of float32 rounds twice and may be one unit off in the half types. So float16 is numpy's direct cast,
    and bfloat16 goes through float32 rounded to odd, which keeps the lost bits visible to the second rounding.

    Returns:
        The values, held as `STORED[dtype]`.
    """
    with np.errstate(over="ignore"):
        if dtype == "BF16":
            return _nearest_bfloat16(_round_to_odd(values))
        return values.astype(STORED[dtype])


def finite(stored: np.ndarray, dtype: str) -> bool:
    """Returns whether no value held as `STORED[dtype]` is infinite or NaN."""
    if (exponent := _EXPONENTS.get(dtype)) is not None:
        # Tested by the bits, as numpy's isfinite for float16 takes longer than rounding to it.
        return bool(((stored.view(np.uint16) & exponent) != exponent).all())
    return bool(np.isfinite(stored).all())


def round_to(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Does the same as `rounded`, for a model in memory."""
    import torch

    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    held = rounded(values, names[dtype])
    if dtype is torch.bfloat16:
        return torch.from_numpy(held.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(held)


def _round_to_odd(values: np.ndarray) -> np.ndarray:
    """Returns float32 values whose last bit is set if the cast was inexact (Boldo and Melquiond 2008, round to odd)."""
    nearest = values.astype(np.float32)
    # Where the cast rounded away from zero, take the neighbour towards zero; then set the last bit.
    away = np.abs(nearest.astype(np.float64)) > np.abs(values)
    truncated = np.where(away & np.isfinite(nearest), np.nextafter(nearest, np.float32(0)), nearest)
    inexact = (nearest.astype(np.float64) != values) & np.isfinite(nearest)
    bits = truncated.view(np.uint32) | inexact.astype(np.uint32)
    result: np.ndarray = bits.view(np.float32)
    return result


def _nearest_bfloat16(values: np.ndarray) -> np.ndarray:
    """Returns the upper halves of float32 values, rounded by the lower halves. NaN stays NaN."""
    bits = values.view(np.uint32)
    half = ((bits >> 16) & 1) + np.uint32(0x7FFF)
    result: np.ndarray = np.where(np.isnan(values), np.uint32(0x7FC0), (bits + half) >> 16).astype(np.uint16)
    return result
