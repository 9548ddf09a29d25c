"""Timing that a noisy machine cannot fake: everything interleaved in one run, with an A/A control.

Milliseconds of one run mean little; the ratio of two things measured side by side means something, as far as the ratio
of a thing to itself (the control) is 1.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Seconds(NamedTuple):
    """Of one call: of all threads together, and on the clock."""

    cpu: float
    wall: float


def interleaved(functions: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 3) -> dict[str, list[Seconds]]:
    """What each function takes in each round; the order rotates from round to round."""
    names = list(functions)
    for name in names * warm_up:
        functions[name]()
    seconds: dict[str, list[Seconds]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            cpu, wall = time.process_time(), time.perf_counter()
            functions[name]()
            seconds[name].append(Seconds(time.process_time() - cpu, time.perf_counter() - wall))
    return seconds


def ratio(seconds: Mapping[str, list[Seconds]], name: str, reference: str, clock: str = "cpu") -> float:
    """Median over rounds of `name` against `reference` in the same round."""
    return statistics.median(
        getattr(a, clock) / getattr(b, clock) for a, b in zip(seconds[name], seconds[reference], strict=True)
    )


def wall(function: Callable[[], Any], repeats: int = 5) -> float:
    """Median wall seconds of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
