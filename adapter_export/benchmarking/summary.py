"""Many measured numbers in few: percentiles, and ratios with how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapter_export.benchmarking.timing import Seconds

# Of a normal distribution: 95% lies within so many standard deviations.
_Z95 = 1.96


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of measured numbers, interpolated linearly between neighbours."""

    p10: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Ratio:
    """A ratio of two things measured in turns.

    Attributes:
        value: Median over the rounds.
        low: Lower bound of its interval of 95% confidence, whatever the distribution.
        high: Upper bound of it.
    """

    value: float
    low: float
    high: float


def percentiles(values: Sequence[float]) -> Percentiles:
    """Returns the percentiles of at least one value."""
    return Percentiles(*(float(value) for value in np.percentile(values, (10, 50, 90, 99))))


def ratio(measured: Sequence[Seconds], reference: Sequence[Seconds], clock: str = "cpu") -> Ratio:
    """Divides what was measured by the reference of the same round.

    The bounds are the values of rank n/2 -+ 0.98 sqrt(n): as many of n values lie below the true median as heads come
    in n throws of a coin.

    Args:
        measured: Seconds in each round.
        reference: Seconds of the reference in the same rounds.
        clock: `cpu` or `wall`.

    Returns:
        The ratio; NaN if the clock is too coarse.
    """
    pairs = [(getattr(a, clock), getattr(b, clock)) for a, b in zip(measured, reference, strict=True)]
    # A clock too coarse for what it measured (some systems' of CPU time) gives no ratio.
    if any(below <= 0 for _, below in pairs):
        return Ratio(math.nan, math.nan, math.nan)
    found = sorted(above / below for above, below in pairs)
    reach = _Z95 * math.sqrt(len(found)) / 2
    low = max(0, math.floor((len(found) - 1) / 2 - reach))
    high = min(len(found) - 1, math.ceil((len(found) - 1) / 2 + reach))
    return Ratio(float(np.median(found)), found[low], found[high])
