"""A heat map for each output: the error of each adapter in each case, coloured by how much of the limit it takes."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_export.pages.parts import HeatCell, HeatMap
from adapter_export.parity.criteria.judge import Judgement, Verdict
from adapter_export.parity.page.texts import judged_by_means, judged_error, number
from adapter_export.parity.report import ParityReport

# Columns that fit on paper.
_COLUMNS = 8
# Upper ends of the levels, as shares of the limit. Beyond the last one a case fails.
_SHARES = (0.1, 0.5, 1.0)
LEVELS = ("at most a tenth of the limit", "at most half of it", "at most the limit", "above the limit")


def heat_maps(report: ParityReport) -> Iterator[HeatMap]:
    """Yields a heat map for each output; several where there are many adapters."""
    means = judged_by_means(report.manifest)
    what = "mean" if means else "largest"
    for output in dict.fromkeys(item.output for item in report.results):
        results = [item for item in report.results if item.output == output]
        adapters = list(dict.fromkeys(item.adapter for item in results))
        for first in range(0, len(adapters), _COLUMNS):
            shown = adapters[first : first + _COLUMNS]
            part = f", columns {first + 1} to {first + len(shown)}" if len(adapters) > _COLUMNS else ""
            yield HeatMap(
                f"{output}: {what} error by case and adapter{part}",
                "case",
                shown,
                list(dict.fromkeys(item.case.name for item in results)),
                {
                    (item.case.name, item.adapter): _cell(item.judgement, means)
                    for item in results
                    if item.adapter in shown
                },
                LEVELS,
                f"The {what} difference of a case between ONNX Runtime and the reference, divided by the root mean "
                "square of the reference. A case is named by rows x tokens, and the side of the padding. The colour "
                "says how near the error is to the limit of its case. A case may fail for another reason than its "
                "error: then its verdict is beside the number.",
            )


def _cell(judgement: Judgement, means: bool) -> HeatCell:
    error, limit = judged_error(judgement, means), judgement.limit
    mark = "" if judgement.verdict is Verdict.PASS else judgement.verdict.value
    if error is None or limit is None:
        return HeatCell(number(error), None, mark)
    return HeatCell(number(error), level(error, limit), mark)


def level(error: float, limit: float) -> int:
    """Returns which of `LEVELS` an error has."""
    return sum(not error <= share * limit for share in _SHARES)
