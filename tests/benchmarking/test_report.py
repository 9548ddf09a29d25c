"""`bench` as a function. What it measures is tested by the command, in tests/cli/test_bench.py."""

from __future__ import annotations

from typing import Any

import pytest

from adapter_export import BenchReport, InputError, Percentiles, bench
from tests.bundles import Exported


def test_a_report_is_typed(swappable_bundle: Exported) -> None:
    told: list[tuple[int, int]] = []
    report = bench(
        swappable_bundle.bundle,
        batches=[2],
        lengths=[3, 5],
        repeats=1,
        threads=1,
        progress=lambda done, total: told.append((done, total)),
    )
    assert isinstance(report, BenchReport)
    assert report.folders == {"bundle": swappable_bundle.bundle}
    assert report.settings.lengths == (3, 5)
    assert {(item.shape.batch, item.shape.length, item.shape.rounds) for item in report.latency} == {
        (2, 3, 1),
        (2, 5, 1),
    }
    assert all(isinstance(item.wall, Percentiles) for item in report.latency)
    assert (report.comparisons, [item.adapter for item in report.swaps]) == ((), ["ia3_two", "houlsby_four"])
    assert told == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batches": []}, "--batch: expected whole numbers from 1, found []"),
        ({"lengths": [4, 4]}, "--length: expected each number once, found [4, 4]"),
        ({"repeats": 0}, "--repeats: expected a whole number from 1, found 0"),
        ({"threads": 0}, "--threads: expected a whole number from 1, found 0"),
        ({"seconds": 0.0}, "--seconds: expected a number above 0, found 0.0"),
        ({"lengths": [4000]}, "--length 4000: 4000 tokens do not fit in the "),
    ],
)
def test_numbers_out_of_range(settings: dict[str, Any], message: str, swappable_bundle: Exported) -> None:
    with pytest.raises(InputError) as error:
        bench(swappable_bundle.bundle, **settings)
    assert str(error.value).startswith(message)
