"""Percentiles and ratios against numpy and against what was put in; turns are taken as promised."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from adapter_export.benchmarking import timing
from adapter_export.benchmarking.summary import percentiles, ratio
from adapter_export.benchmarking.timing import Seconds, interleaved, rounds_within


def test_percentiles_are_numpys() -> None:
    values = np.random.default_rng(3).exponential(size=101)
    found = percentiles(list(values))
    assert (found.p10, found.p50, found.p90, found.p99) == tuple(np.sort(values)[[10, 50, 90, 99]])


def test_ratio_is_the_median_of_the_rounds() -> None:
    rng = np.random.default_rng(4)
    cpu, wall = rng.uniform(1, 2, (2, 2, 41))
    measured, reference = ([Seconds(*pair) for pair in zip(cpu[i], wall[i], strict=True)] for i in range(2))
    assert ratio(measured, reference).value == np.median(cpu[0] / cpu[1])
    assert ratio(measured, reference, "wall").value == np.median(wall[0] / wall[1])


def test_bounds_hold_the_true_median_as_often_as_they_say() -> None:
    """Of a skewed distribution with median 1, drawn 2,000 times."""
    rng = np.random.default_rng(5)
    one = [Seconds(1.0, 1.0)] * 25
    found = [ratio([Seconds(v, v) for v in np.exp(rng.normal(size=25) ** 3)], one) for _ in range(2000)]
    share = np.mean([of.low <= 1 <= of.high for of in found])
    assert 0.94 <= share <= 0.99
    assert all(of.low <= of.value <= of.high for of in found)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_bounds_of_few_rounds_are_all_there_is(rounds: int) -> None:
    measured = [Seconds(1.0 + i, 1.0) for i in range(rounds)]
    found = ratio(measured, [Seconds(1.0, 1.0)] * rounds)
    assert (found.low, found.high) == (1.0, float(rounds))


def test_a_clock_that_stood_still_gives_no_ratio() -> None:
    found = ratio([Seconds(0.5, 1.0)], [Seconds(0.0, 1.0)])
    assert math.isnan(found.value)
    assert ratio([Seconds(0.5, 1.0)], [Seconds(0.0, 1.0)], "wall").value == 1


def test_every_function_is_first_as_often_as_last() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    found = interleaved(calls, rounds=6, warm_up=2)
    assert Counter(order[:6]) == dict.fromkeys("abc", 2)
    turns = ["".join(order[6 + 3 * i : 9 + 3 * i]) for i in range(6)]
    assert turns == ["abc", "bca", "cab"] * 2
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys("abc", 6)


def test_rounds_fit_in_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "seconds_of", lambda function: Seconds(0.0, function()))
    calls = {"a": lambda: 0.02, "b": lambda: 0.03}
    assert rounds_within(calls, 3.0) == 60
    assert rounds_within(calls, 0.1) == 10
    assert rounds_within(calls, 1e9) == 2000
