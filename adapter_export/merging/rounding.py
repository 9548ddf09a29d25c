"""Rounding float64 to narrower types once, to nearest even."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def round_to(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """float64 `values` as the nearest `dtype` (float64, float32, float16, bfloat16), ties to even.

    A cast by way of float32 rounds twice and may be one unit off in the half types, so float16 is numpy's direct cast
    and bfloat16 goes through float32 rounded to odd, which keeps the lost bits visible to the second rounding.
    """
    import torch

    if dtype is torch.float16:
        with np.errstate(over="ignore"):
            return torch.from_numpy(values.astype(np.float16))
    if dtype is torch.bfloat16:
        return torch.from_numpy(_round_to_odd(values)).to(torch.bfloat16)
    return torch.from_numpy(values).to(dtype)


def _round_to_odd(values: np.ndarray) -> np.ndarray:
    """float32 whose last bit is set wherever the cast was inexact (Boldo and Melquiond 2008, round to odd)."""
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    # Step back to the neighbour towards zero where the cast went away from it, then set the last bit.
    away = np.abs(nearest.astype(np.float64)) > np.abs(values)
    truncated = np.where(away & np.isfinite(nearest), np.nextafter(nearest, np.float32(0)), nearest)
    inexact = (nearest.astype(np.float64) != values) & np.isfinite(nearest)
    bits = truncated.view(np.uint32) | inexact.astype(np.uint32)
    result: np.ndarray = bits.view(np.float32)
    return result
