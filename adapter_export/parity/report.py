"""What a parity check found: the record itself, as a JSON object, and as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adapter_export.parity.cases import Case
from adapter_export.parity.judge import Judgement, Verdict, worst
from adapter_export.parity.witness import NONE
from adapter_export.terminal import console, visible

# How the runs without an adapter are called; no adapter can have this name.
NO_ADAPTER = "(no adapter)"
_SHOWN_REASONS = 12


@dataclass(frozen=True)
class Check:
    """A check of the bundle as a whole."""

    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Result:
    """One output of one case; adapter is NO_ADAPTER for a run without one."""

    adapter: str
    case: Case
    output: str
    judgement: Judgement


@dataclass(frozen=True)
class ParityReport:
    """notes: what was not judged as it might be expected, and why. placement: share of nodes by provider.
    witnesses: by adapter who besides us says what it should compute: `peft 0.21.2`, `recorded by adapters 1.3.0`, or
    `none: ...` with the reason.
    judged_to: the longest text judged in tokens, where the model takes longer ones or computes otherwise beyond; else
    None.
    """

    bundle: Path
    mode: str
    task: str
    dtype: str
    provider: str
    checks: tuple[Check, ...]
    results: tuple[Result, ...] = ()
    notes: tuple[str, ...] = ()
    placement: Mapping[str, float] | None = None
    witnesses: Mapping[str, str] = field(default_factory=dict)
    judged_to: int | None = None

    @property
    def witnessed(self) -> bool:
        """Whether every adapter has a witness besides our own reading of its checkpoint."""
        return not any(name.startswith(NONE) for name in self.witnesses.values())

    @property
    def outcome(self) -> str:
        """The verdict in words: a pass says what it does not cover, `pass (unwitnessed)` where it rests on our own
        reading alone, `pass (not judged beyond 512 tokens)`, or both with a semicolon between them."""
        limits = [] if self.witnessed else ["unwitnessed"]
        if self.judged_to is not None:
            limits.append(f"not judged beyond {self.judged_to} tokens")
        passed = self.verdict is Verdict.PASS
        return f"{self.verdict.value} ({'; '.join(limits)})" if passed and limits else self.verdict.value

    @property
    def verdict(self) -> Verdict:
        """The worst of everything; INCONCLUSIVE when no case was run."""
        if not self.results:
            return worst([Verdict.INCONCLUSIVE, *(check.verdict for check in self.checks)])
        return worst([*(check.verdict for check in self.checks), *(item.judgement.verdict for item in self.results)])

    def of(self, adapter: str) -> tuple[Result, ...]:
        """The results of one adapter."""
        return tuple(item for item in self.results if item.adapter == adapter)


def summary(report: ParityReport) -> list[dict[str, Any]]:
    """One object per adapter: its verdict and, over its cases, the worst of every number."""
    rows = []
    for name in dict.fromkeys(item.adapter for item in report.results):
        judgements = [item.judgement for item in report.of(name)]
        count = {verdict.value: sum(j.verdict is verdict for j in judgements) for verdict in Verdict}
        rows.append(
            {
                "adapter": name,
                "verdict": worst(j.verdict for j in judgements).value,
                "cases": count,
                "error": _largest(j.error.max for j in judgements if j.error),
                "target_error": _largest(j.target_error.max for j in judgements if j.target_error),
                "off_error": _largest(j.off_error.max for j in judgements if j.off_error),
                "effect": _smallest(j.effect for j in judgements if j.effect is not None),
                "cosine": _smallest(j.cosine for j in judgements if j.cosine is not None),
                "tokens": next((asdict(j.tokens) for j in judgements if j.tokens), None),
            }
        )
    return rows


def as_dict(report: ParityReport) -> dict[str, Any]:
    """The whole report as one JSON object."""
    return {
        "verdict": report.outcome,
        "witnesses": dict(report.witnesses),
        "bundle": report.bundle,
        "mode": report.mode,
        "task": report.task,
        "dtype": report.dtype,
        "provider": report.provider,
        "placement": report.placement,
        "checks": [asdict(check) | {"verdict": check.verdict.value} for check in report.checks],
        "adapters": summary(report),
        "cases": [
            {"adapter": item.adapter, "case": item.case.name, "output": item.output}
            | asdict(item.judgement)
            | {"verdict": item.judgement.verdict.value}
            for item in report.results
        ],
        "notes": list(report.notes),
    }


def print_report(report: ParityReport) -> None:
    """Checks, one line per adapter, and the reasons of what did not pass."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    colours = {Verdict.PASS: "green", Verdict.INCONCLUSIVE: "yellow", Verdict.FAIL: "red"}
    out = console()

    def coloured(verdict: Verdict) -> Text:
        return Text(verdict.value, colours[verdict])

    def say(line: str) -> None:
        out.print(visible(line, lines=False), soft_wrap=True, highlight=False)

    say(f"{report.bundle}: {report.mode}, {report.task}, {report.dtype}, {report.provider}")
    checks = Table("check", "verdict", "found", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for check in report.checks:
        checks.add_row(check.name, coloured(check.verdict), visible(check.detail))
    out.print(checks)
    if report.results:
        table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        table.add_column("adapter", overflow="fold", min_width=len(NO_ADAPTER))
        for title in ("verdict", "cases", "e(O)", "e(T)", "e(O) off", "effect", "1 - cos"):
            table.add_column(title, justify="right", no_wrap=True)
        for row in summary(report):
            cases = f"{row['cases']['pass']}/{sum(row['cases'].values())}"
            numbers = [row["error"], row["target_error"], row["off_error"], row["effect"], _rest(row["cosine"])]
            table.add_row(row["adapter"], coloured(Verdict(row["verdict"])), cases, *map(_short, numbers))
        out.print(table)
    lines = [
        f"{item.judgement.verdict.value}: {item.adapter}, case {item.case.name}, {item.output}: {reason}"
        for item in report.results
        for reason in item.judgement.reasons
    ]
    for line in [*lines[:_SHOWN_REASONS], *(f"note: {note}" for note in report.notes)]:
        say(line)
    if len(lines) > _SHOWN_REASONS:
        say(f"... and {len(lines) - _SHOWN_REASONS} more; --json has all of them")
    for name, witness in report.witnesses.items():
        say(f"witness: {name}: {witness}")
    out.print("parity:", Text(report.outcome, colours[report.verdict]), highlight=False)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _rest(cosine: float | None) -> float | None:
    return None if cosine is None else max(0.0, 1 - cosine)


def _largest(values: Iterable[float]) -> float | None:
    return max(values, default=None)


def _smallest(values: Iterable[float]) -> float | None:
    return min(values, default=None)
