"""Collects the measurements of all cases, and judges them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from adapter_export.parity.cases import ParityCase
from adapter_export.parity.criteria.measure import Measurement
from adapter_export.parity.criteria.retries import Measured
from adapter_export.parity.criteria.select import Criteria
from adapter_export.parity.report import ParityResult

# Called with the number of finished cases and the number of all cases.
Progress = Callable[[int, int], None]


def measured_cases(
    cases: Iterable[ParityCase],
    run: Callable[[ParityCase], Mapping[tuple[str, str], Measurement]],
    progress: Progress | None,
) -> Measured:
    """Runs all cases.

    Args:
        cases: The cases.
        run: Measures one case; returns measurements by adapter and output.
        progress: Is told how far it is; None to tell nobody.
    """
    measured: Measured = {}
    cases = list(cases)
    for number, case in enumerate(cases):
        if progress:
            progress(number, len(cases))
        for key, item in run(case).items():
            measured.setdefault(key, {})[case] = item
    return measured


def judged(measured: Measured, criteria: Criteria) -> list[ParityResult]:
    """Returns one result per adapter, output and case."""
    return [
        ParityResult(adapter, case, output, judgement)
        for (adapter, output), items in measured.items()
        for case, judgement in zip(items, criteria.judge(list(items.values())), strict=True)
    ]
