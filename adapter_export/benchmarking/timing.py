"""Timing on machines with other load: all functions are interleaved in one run, with an A/A control.

The milliseconds of one run depend on the load of the machine. The ratio of two functions that are measured in turn is
reliable, as far as the ratio of a function to itself (the control) is 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)
# Number of runs before the measurement. The first runs plan their memory, and may read files.
WARM_UP = 3
_LEAST, _MOST = 10, 2000


class Seconds(NamedTuple):
    """Times of one call, in seconds.

    Attributes:
        cpu: CPU time of all threads together.
        wall: Wall time.
    """

    cpu: float
    wall: float


def seconds_of(function: Callable[[], Any]) -> Seconds:
    """Returns the times of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def interleaved(
    functions: Mapping[Key, Callable[[], Any]], rounds: int, warm_up: int = WARM_UP
) -> dict[Key, list[Seconds]]:
    """Measures functions in turn. Their order rotates from round to round.

    Args:
        functions: The functions by any key.
        rounds: Number of rounds.
        warm_up: Number of calls of each function before the first round.

    Returns:
        The times of each function in each round.
    """
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
    """Returns how many rounds of the functions fit in a time, from 10 to 2,000.

    It is computed from one round, after another round to warm up.

    Args:
        functions: The functions by any key.
        seconds: The time.
    """
    for function in functions.values():
        function()
    once = sum(seconds_of(function).wall for function in functions.values())
    return max(_LEAST, min(_MOST, round(seconds / max(once, 1e-9))))
