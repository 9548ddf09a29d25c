"""Prints the result of a parity check as tables, with one line for each cause of a failure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.report import NO_ADAPTER, ParityCheck, ParityReport, ParityResult, summary
from adapter_export.terminal import console, visible

# The most lines with reasons.
_SHOWN_REASONS = 12
_COLUMNS = ("verdict", "cases", "e(O)", "e(T)", "e(O) off", "effect", "1 - cos")
_LEGEND = (
    "cases: those that passed, of all. The other columns are the worst of all cases.",
    "e(O): error of ONNX Runtime, e(T): error of PyTorch at {dtype}, both against",
    "PyTorch in float64, 1 being as large as the output. off: without the adapter.",
    "effect: how much the adapter changes the output. 1 - cos: 0 if it changes it in",
    "the right direction, 1 or more if in another. -: not measured.",
)
# How a message begins if ONNX Runtime could not run something.
_DID_NOT_RUN = "did not run: "


def print_report(report: ParityReport) -> None:
    """Prints the checks, one line per adapter, one line per cause of a failure, and where the bundle departs from
    PyTorch.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    colours = {Verdict.PASS: "green", Verdict.INCONCLUSIVE: "yellow", Verdict.FAIL: "red"}
    out = console()

    def coloured(verdict: Verdict) -> Text:
        return Text(verdict.value, colours[verdict])

    def print_line(line: str) -> None:
        out.print(visible(line, lines=False), soft_wrap=True, highlight=False)

    print_line(f"{report.bundle}: {report.mode}, {report.task}, {report.dtype}, {report.provider}")
    checks = Table("check", "verdict", "found", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for check in once(report.checks, report.results):
        checks.add_row(check.name, coloured(check.verdict), visible(check.detail))
    out.print(checks)
    if report.results:
        table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        table.add_column("adapter", overflow="fold", min_width=len(NO_ADAPTER))
        for title in _COLUMNS:
            table.add_column(title, justify="right", no_wrap=True)
        for row in summary(report):
            cases = f"{row['cases']['pass']}/{sum(row['cases'].values())}"
            numbers = [row["error"], row["target_error"], row["off_error"], row["effect"], _one_minus(row["cosine"])]
            table.add_row(row["adapter"], coloured(Verdict(row["verdict"])), cases, *map(_format, numbers))
        out.print(table)
        for line in _LEGEND:
            print_line(line.format(dtype=report.dtype))
    lines = list(reason_lines(report.results))
    for line in lines[:_SHOWN_REASONS]:
        print_line(line)
    if len(lines) > _SHOWN_REASONS:
        print_line(f"... and {len(lines) - _SHOWN_REASONS} more; --json has all of them")
    for line in report.departure.lines() if report.departure is not None else ():
        print_line(line)
    for note in report.notes:
        print_line(f"note: {note}")
    for name, witness in report.witnesses.items():
        print_line(f"witness: {name}: {witness}")
    out.print("parity:", Text(report.outcome, colours[report.verdict]), highlight=False)


def reason_lines(results: Sequence[ParityResult]) -> Iterator[str]:
    """Yields one line for each adapter, output and verdict other than PASS: the first case, with its first reason.

    The reasons after the first mostly follow from it, and so do those of the other cases. JSON has all of them.
    """
    groups: dict[tuple[Verdict, str, str], list[ParityResult]] = {}
    for item in results:
        if item.judgement.verdict is not Verdict.PASS:
            groups.setdefault((item.judgement.verdict, item.adapter, item.output), []).append(item)
    for (verdict, adapter, output), items in groups.items():
        first = items[0]
        reason = first.judgement.reasons[0] if first.judgement.reasons else "no reason"
        more = f" (and {len(items) - 1} more cases)" if len(items) > 1 else ""
        yield f"{verdict.value}: {adapter}, case {first.case.name}, {output}: {reason}{more}"


def once(checks: Sequence[ParityCheck], results: Sequence[ParityResult]) -> Iterator[ParityCheck]:
    """Yields the checks. One that did not run for the reason of a case, or of another check, does not repeat it."""
    said = {reason for item in results for reason in item.judgement.reasons if reason.startswith(_DID_NOT_RUN)}
    for check in checks:
        start, _, message = check.detail.partition(_DID_NOT_RUN)
        reason = f"{_DID_NOT_RUN}{message}"
        if message and reason in said:
            yield ParityCheck(check.name, check.verdict, f"{start}did not run, for the same reason as another line")
        else:
            said |= {reason} if message else set()
            yield check


def _format(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _one_minus(cosine: float | None) -> float | None:
    return None if cosine is None else max(0.0, 1 - cosine)
