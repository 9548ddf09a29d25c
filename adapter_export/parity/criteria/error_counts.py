"""How the errors of one output are distributed: how many values are off by how much, in steps of powers of two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ErrorCounts:
    """Numbers of values by their absolute error.

    Steps of powers of two are read from the floats' own exponents, which is exact and takes a fraction of the time of a
    run. Counts of several cases can be added, as long as they have the same unit.

    Attributes:
        first: counts[i] counts errors from 2^(first + i) to below 2^(first + i + 1), in units of the output.
        counts: Number of values in each step; the first and the last are not zero.
        exact: Number of values without any error.
        unit: Errors are to be divided by it: rms(R).
    """

    first: int
    counts: tuple[int, ...]
    exact: int
    unit: float = 1.0

    @property
    def total(self) -> int:
        """Number of all values."""
        return self.exact + sum(self.counts)


def count_errors(difference: np.ndarray) -> ErrorCounts:
    """Counts the values of a difference, in units of the output. All of them must be finite."""
    sizes = np.abs(difference)
    sizes = sizes[sizes > 0]
    if not sizes.size:
        return ErrorCounts(0, (), difference.size)
    # frexp gives x = m 2^e with m from 0.5 to below 1, so 2^(e - 1) <= x < 2^e.
    exponents = np.frexp(sizes)[1].ravel() - 1
    first = int(exponents.min())
    counts = np.bincount(exponents - first)
    return ErrorCounts(first, tuple(counts.tolist()), difference.size - sizes.size)
