"""The plots of each adapter: how far values are off, how that compares with PyTorch and with the adapter's effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from adapter_export.pages.parts import Paragraph, Part, Plot, Plots, Title
from adapter_export.pages.plots.dots import Dots, dot_plot
from adapter_export.pages.plots.steps import Steps, step_plot
from adapter_export.parity.criteria.error_counts import ErrorCounts
from adapter_export.parity.criteria.judge import THRESHOLDS, worst
from adapter_export.parity.page.texts import judged_by_means, judged_error, judged_target_error, plural, word
from adapter_export.parity.report import ParityReport, ParityResult

_UNIT = "error / rms of the reference"
_EFFECT = "effect of the adapter"
# Where 1 - cosine is smaller, it is the rounding of the numbers it is computed from.
_LEAST_TURN = 1e-16


def error_parts(report: ParityReport) -> Iterator[Part]:
    """Yields, for each adapter and each of its outputs, a heading and the plots."""
    groups: dict[tuple[str, str], list[ParityResult]] = {}
    for item in report.results:
        groups.setdefault((item.adapter, item.output), []).append(item)
    if groups:
        yield Paragraph(
            "The reference is PyTorch in float64, with the adapter unmerged. Errors are differences from it, divided "
            f"by its root mean square (rms) over all cases. {_pytorch(report)} is measured in the same way: it shows "
            "how large errors are that come from the precision alone."
        )
    for number, ((adapter, output), results) in enumerate(groups.items()):
        yield Title(f"{adapter}: {output}", word(worst(item.judgement.verdict for item in results)))
        plots = list(_plots(report, f"p{number}", f"{adapter}, {output}", results))
        yield Plots(plots) if plots else Paragraph("There is nothing to measure in these cases.")


def _plots(report: ParityReport, name: str, subject: str, results: Sequence[ParityResult]) -> Iterator[Plot]:
    judgements = [item.judgement for item in results]
    actual = _added([item.counts for item in judgements])
    target = _added([item.target_counts for item in judgements])
    if actual and target:
        yield Plot(
            "Errors of single values",
            step_plot(
                f"{name}a",
                f"{subject}: distribution of the errors of single values, ONNX Runtime and PyTorch",
                [_steps("ONNX Runtime", actual), _steps(_pytorch(report), target)],
                _UNIT,
            ),
            f"Which share of the {plural(actual.total, 'value')} of all cases has an error in each step; a step "
            "reaches from one power of two to the next. Further left is better. Two lines in the same place mean that "
            f"the graph rounds as PyTorch does. Without any error: {actual.exact:,} values in ONNX Runtime, "
            f"{target.exact:,} in PyTorch.",
        )
    means = judged_by_means(report.manifest)
    rows: dict[str, list[float | None]] = {
        "ONNX Runtime": [judged_error(item, means) for item in judgements],
        _pytorch(report): [judged_target_error(item, means) for item in judgements],
        "limit of a pass, for ONNX Runtime": [item.limit for item in judgements],
    }
    if not means:
        rows[_EFFECT] = [item.effect for item in judgements]
    dots = [Dots(row, present) for row, values in rows.items() if (present := _present(values))]
    if dots:
        yield Plot(
            f"{'Mean' if means else 'Largest'} error of each case",
            dot_plot(f"{name}b", f"{subject}: errors of all cases, and the effect of the adapter", dots, _UNIT),
            "A mark is a case, a vertical line is the median. The limit depends on PyTorch's own error in the same "
            "case." + _effect_text(report, rows, means),
        )
    turns = _present([None if item.cosine is None else max(1 - item.cosine, _LEAST_TURN) for item in judgements])
    if turns and not means:
        yield Plot(
            "Direction of the adapter's change",
            dot_plot(
                f"{name}c",
                f"{subject}: one minus the cosine, of all cases",
                [Dots("1 \u2212 cosine", turns)],
                "1 \u2212 cosine",
                1 - THRESHOLDS[report.dtype].cosine,
            ),
            "Whether the adapter changes the outputs of the graph in the direction in which it changes those of the "
            "reference. 0 is the same direction (drawn at 1e-16), 1 is unrelated. Marks to the left of the limit pass.",
        )


def _effect_text(report: ParityReport, rows: Mapping[str, Sequence[float | None]], means: bool) -> str:
    if means:
        return " With few bits, the effect of the adapter is judged over all cases together."
    if not _present(rows[_EFFECT]):
        return ""
    return (
        " The effect is the largest change that the adapter makes to the reference. Only if it is at least "
        f"{THRESHOLDS[report.dtype].effect:g} times the error, a graph without the adapter would have been noticed."
    )


def _pytorch(report: ParityReport) -> str:
    if report.manifest is not None and judged_by_means(report.manifest):
        return f"PyTorch with {report.manifest.quantize} weights"
    return f"PyTorch in {report.dtype}"


def _added(counts: Sequence[ErrorCounts | None]) -> ErrorCounts | None:
    """Returns the sum of distributions, which have one unit; None if there are none."""
    present = [item for item in counts if item is not None]
    if not present:
        return None
    stepped = [item for item in present if item.counts]
    first = min((item.first for item in stepped), default=0)
    end = max((item.first + len(item.counts) for item in stepped), default=0)
    total = [0] * (end - first)
    for item in stepped:
        for step, count in enumerate(item.counts, item.first - first):
            total[step] += count
    return ErrorCounts(first, tuple(total), sum(item.exact for item in present), present[0].unit)


def _steps(name: str, counts: ErrorCounts) -> Steps:
    edges = [2.0 ** (counts.first + step) / counts.unit for step in range(len(counts.counts) + 1)]
    return Steps(name, edges, [count / counts.total for count in counts.counts])


def _present(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
