"""Rounding once: against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from adapter_export.merging.rounding import round_to

# Explicit mantissa bits of each type; its significand has one more.
MANTISSA = {torch.float16: 10, torch.bfloat16: 7, torch.float32: 23}


def nearest_even(value: float, bits: int) -> Fraction:
    """`value` rounded to `bits` + 1 significant binary digits, ties to even (normal range only)."""
    exact = Fraction(value)
    exponent = np.frexp(abs(value))[1] - 1
    unit = Fraction(2) ** (int(exponent) - bits)
    return round(exact / unit) * unit  # Python rounds a Fraction half to even


@pytest.mark.parametrize("dtype", MANTISSA)
def test_every_value_is_the_nearest_one(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=2000)
    # Just off the midpoint of two neighbours, by less than float32 can tell: what rounding twice gets wrong.
    unit = 2.0 ** -MANTISSA[dtype]
    odd = 1 + unit * (2 * rng.integers(0, 2 ** (MANTISSA[dtype] - 1), 500) + 0.5)
    values = np.concatenate([values, odd, -odd, odd * (1 + 2.0**-40), odd * (1 - 2.0**-40)])
    rounded = round_to(values, dtype).double().numpy()
    for value, result in zip(values, rounded, strict=True):
        assert Fraction(float(result)) == nearest_even(float(value), MANTISSA[dtype])


def test_overflow_gives_infinity_to_be_refused_later() -> None:
    assert torch.isinf(round_to(np.array([1e6]), torch.float16)).all()
    assert torch.isinf(round_to(np.array([1e39]), torch.bfloat16)).all()
    assert torch.isinf(round_to(np.array([1e39]), torch.float32)).all()
