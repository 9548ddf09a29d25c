"""Ratios of the benchmarks, on numbers made by hand."""

from __future__ import annotations

import pytest

from benchmarks.timing import Seconds, interleaved, ratio


def test_a_ratio_is_the_median_over_rounds_of_the_clock_asked_for() -> None:
    seconds = {
        "a": [Seconds(2, 10), Seconds(9, 30), Seconds(4, 10)],
        "b": [Seconds(1, 10), Seconds(3, 10), Seconds(1, 20)],
    }
    assert ratio(seconds, "a", "b") == 3
    assert ratio(seconds, "a", "b", "wall") == 1
    assert ratio(seconds, "b", "a", "cpu") == pytest.approx(1 / 3)


def test_rounds_begin_with_another_function_each_time() -> None:
    calls: list[str] = []
    seconds = interleaved({name: lambda n=name: calls.append(n) for name in "ab"}, rounds=3, warm_up=1)
    assert "".join(calls) == "ababbaab"
    assert [len(values) for values in seconds.values()] == [3, 3]
