"""Counting from several threads, and ending them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from adapter_export.merging.progress import Meter, Stopped


def test_sums_are_reported_in_order() -> None:
    seen: list[tuple[int, int]] = []
    meter = Meter(4000, lambda *step: seen.append(step))
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(meter.tick, [1] * 4000))
    assert seen == [(number, 4000) for number in range(1, 4001)]


def test_nobody_works_on_after_a_failure() -> None:
    meter = Meter(10, None)
    meter.tick(1)
    meter.stop()
    with pytest.raises(Stopped):
        meter.tick(1)
