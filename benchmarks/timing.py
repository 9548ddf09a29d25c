"""What the benchmarks measure with: that of `adapter-export bench`, as plain numbers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from adapter_export.benchmarking import summary
from adapter_export.benchmarking.timing import Seconds, interleaved, seconds_of

__all__ = ["Seconds", "interleaved", "ratio", "seconds_of", "wall"]


def ratio(seconds: Mapping[str, list[Seconds]], name: str, reference: str, clock: str = "cpu") -> float:
    """Median over rounds of `name` against `reference` in the same round."""
    return summary.ratio(seconds[name], seconds[reference], clock).value


def wall(function: Callable[[], Any], repeats: int = 5) -> float:
    """Median wall seconds of a call."""
    return statistics.median(seconds_of(function).wall for _ in range(repeats))
