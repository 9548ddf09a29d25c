"""Rounding float64 once, checked value by value against all values a type has; and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapter_export.merging.rounding import STORED, finite, round_to, rounded, widened

_TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def every_value(dtype: str) -> np.ndarray:
    """All finite values of a type of 16 bits, ascending, as float64; found by torch."""
    bits = np.arange(1 << 16, dtype=np.uint16).view(np.int16)
    values = torch.from_numpy(bits).view(_TORCH[dtype]).double().numpy()
    return np.unique(values[np.isfinite(values)])


def nearest(values: np.ndarray, dtype: str) -> np.ndarray:
    """The nearest value of the type by comparing with midpoints, which float64 holds exactly; ties to even."""
    known = every_value(dtype)
    above = np.clip(np.searchsorted(known, values), 1, len(known) - 1)
    low, high = known[above - 1], known[above]
    middle = (low + high) / 2
    even_low = (torch.from_numpy(low).to(_TORCH[dtype]).view(torch.int16).numpy() & 1) == 0
    return np.where((values < middle) | ((values == middle) & even_low), low, high)


def difficult(dtype: str) -> np.ndarray:
    """Values, midpoints of neighbours, and what lies next to those in float64: where rounding twice goes wrong."""
    known = every_value(dtype)[1:-1:7]
    middles = (known[1:] + known[:-1]) / 2
    next_to = [np.nextafter(middles, side) for side in (-np.inf, np.inf)]
    random = np.random.default_rng(0).normal(0, 1, 10_000) * 10.0 ** np.random.default_rng(1).integers(-9, 4, 10_000)
    pairs = [(a + b) / 2 for a, b in [(every_value(dtype)[:-1], every_value(dtype)[1:])]]
    return np.concatenate([known, middles, *next_to, random, *pairs, *(np.nextafter(p, np.inf) for p in pairs)])


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_types_are_rounded_once(dtype: str) -> None:
    values = difficult(dtype)
    np.testing.assert_array_equal(widened(rounded(values, dtype), dtype), nearest(values, dtype))


def test_rounding_twice_would_differ() -> None:
    """The values above are difficult: going by float32, as torch's own cast does, misses some."""
    for dtype in ("F16", "BF16"):
        values = difficult(dtype)
        twice = torch.from_numpy(values.astype(np.float32)).to(_TORCH[dtype]).double().numpy()
        assert (twice != nearest(values, dtype)).sum() > 100


def test_float32_and_float64() -> None:
    values = np.random.default_rng(2).normal(size=1000)
    np.testing.assert_array_equal(rounded(values, "F32"), torch.from_numpy(values).float().numpy())
    np.testing.assert_array_equal(rounded(values, "F64"), values)


@pytest.mark.parametrize("dtype", STORED)
def test_beyond_the_type_is_infinite(dtype: str) -> None:
    values = np.array([1e300, -1e300, 1.0]) if dtype != "F64" else np.array([np.inf, -np.inf, 1.0])
    held = rounded(values, dtype)
    np.testing.assert_array_equal(widened(held, dtype), [np.inf, -np.inf, 1.0])
    assert not finite(held, dtype)
    assert not finite(rounded(np.array([np.nan, 1.0]), dtype), dtype)
    assert finite(held[2:], dtype)


@pytest.mark.parametrize("dtype", STORED)
def test_in_memory_and_on_disk_are_one_rule(dtype: str) -> None:
    values = np.random.default_rng(3).normal(size=(20, 30))
    tensor = round_to(values, _TORCH[dtype])
    assert tensor.dtype is _TORCH[dtype]
    assert tensor.shape == values.shape
    assert tensor.contiguous().view(torch.uint8).numpy().tobytes() == rounded(values, dtype).tobytes()
    np.testing.assert_array_equal(widened(rounded(values, dtype), dtype), tensor.double().numpy())
