"""Summarizes measured numbers: percentiles, and ratios with their confidence bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapter_export.bench.timing import Seconds

# 95% of a normal distribution lies within this many standard deviations.
_Z95 = 1.96


@dataclass(frozen=True)
class Percentiles:
    """Percentiles, linearly interpolated between neighbouring values (numpy's default)."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Ratio:
    """A median over rounds with its 95% confidence bounds, which hold for any distribution.

    Attributes:
        value: The median.
        low: The lower bound.
        high: The upper bound.
    """

    value: float
    low: float
    high: float


def percentiles(values: Sequence[float]) -> Percentiles:
    """Returns the percentiles of at least one value."""
    p50, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99)))
    return Percentiles(p50, p90, p99)


def ratio(measured: Sequence[Seconds], reference: Sequence[Seconds], clock: str = "cpu") -> Ratio:
    """Returns the ratio of measured times to reference times of the same rounds.

    The bounds are the values of rank n/2 -+ 0.98 sqrt(n). The number of values below the true median is distributed
    like the number of heads in n throws of a coin.

    Args:
        measured: Times of each round.
        reference: Times of the reference in each round.
        clock: `cpu` or `wall`.
    """
    pairs = [(getattr(a, clock), getattr(b, clock)) for a, b in zip(measured, reference, strict=True)]
    # There is no ratio if the clock is too coarse for the measured time (CPU time on some systems).
    if any(below <= 0 for _, below in pairs):
        return Ratio(math.nan, math.nan, math.nan)
    found = sorted(above / below for above, below in pairs)
    reach = _Z95 * math.sqrt(len(found)) / 2
    low = max(0, math.floor((len(found) - 1) / 2 - reach))
    high = min(len(found) - 1, math.ceil((len(found) - 1) / 2 + reach))
    return Ratio(float(np.median(found)), found[low], found[high])
