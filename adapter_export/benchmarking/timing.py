"""Timing that a noisy machine cannot fake: everything interleaved in one run, with an A/A control.

Milliseconds of one run mean little; the ratio of two things measured side by side means something, as far as the ratio
of a thing to itself (the control) is 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)
# Before anything is measured: the first runs plan their memory, and the very first may read files.
WARM_UP = 3
_LEAST, _MOST = 10, 2000


class Seconds(NamedTuple):
    """Of one call: of all threads together, and on the clock."""

    cpu: float
    wall: float


def seconds_of(function: Callable[[], Any]) -> Seconds:
    """What one call takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def interleaved(
    functions: Mapping[Key, Callable[[], Any]], rounds: int, warm_up: int = WARM_UP
) -> dict[Key, list[Seconds]]:
    """What each function takes in each round; the order rotates from round to round."""
    names = list(functions)
    for name in names * warm_up:
        functions[name]()
    seconds: dict[Key, list[Seconds]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seconds[name].append(seconds_of(functions[name]))
    return seconds


def rounds_within(functions: Mapping[Key, Callable[[], Any]], seconds: float) -> int:
    """How many rounds of these fit in so many seconds, by one round after one to warm up; at least 10."""
    for function in functions.values():
        function()
    once = sum(seconds_of(function).wall for function in functions.values())
    return max(_LEAST, min(_MOST, round(seconds / max(once, 1e-9))))
