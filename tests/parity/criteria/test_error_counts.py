"""Distributions of errors, against numpy's histogram."""

from __future__ import annotations

import numpy as np
import pytest

from adapter_export.parity.criteria.error_counts import ErrorCounts, count_errors


def test_against_numpy() -> None:
    rng = np.random.default_rng(1)
    difference = rng.standard_normal((3, 500)) * 10.0 ** rng.integers(-12, 2, (3, 500))
    difference[0, :7] = 0
    found = count_errors(difference)
    edges = 2.0 ** (found.first + np.arange(len(found.counts) + 1))
    expected, _ = np.histogram(np.abs(difference[difference != 0]), edges)
    assert list(found.counts) == expected.tolist()
    assert found.exact == 7
    assert found.total == difference.size
    assert found.counts[0] and found.counts[-1]  # noqa: PT018


@pytest.mark.parametrize(("value", "first"), [(1.0, 0), (-0.5, -1), (0.75, -1), (3.9, 1), (5e-324, -1074)])
def test_a_step_reaches_from_one_power_of_two_to_the_next(value: float, first: int) -> None:
    assert count_errors(np.array([value])) == ErrorCounts(first, (1,), 0)


def test_no_errors() -> None:
    assert count_errors(np.zeros((2, 3))) == ErrorCounts(0, (), 6)
