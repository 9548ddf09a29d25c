"""The result of a parity check: as objects, and as JSON. `report_tables` prints it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adapter_export.bundle.manifest import Manifest
from adapter_export.machine import Machine
from adapter_export.parity.cases import ParityCase
from adapter_export.parity.criteria.judge import Judgement, Verdict, worst
from adapter_export.parity.localizing.departure import ParityDeparture
from adapter_export.parity.references.witness import NONE

# Stands in place of an adapter's name for runs without an adapter. No adapter can have this name.
NO_ADAPTER = "(no adapter)"


@dataclass(frozen=True)
class ParityCheck:
    """A check of the bundle as a whole: its name, its verdict, and one line of details."""

    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class ParityResult:
    """The judgement on one output of one case. `adapter` is NO_ADAPTER for a run without an adapter."""

    adapter: str
    case: ParityCase
    output: str
    judgement: Judgement


@dataclass(frozen=True)
class ParityReport:
    """The result of a parity check.

    Attributes:
        bundle: Folder of the bundle.
        mode: How the bundle holds its adapters.
        task: Task of the bundle.
        dtype: dtype of the graphs.
        provider: The requested provider, `cpu` or `cuda`.
        checks: Checks of the bundle as a whole.
        results: One per adapter, case and output.
        notes: What was not checked in the usual way, and why.
        placement: Share of the graph nodes, from 0 to 1, by execution provider of ONNX Runtime.
        witnesses: The witness of each adapter: `peft 0.21.2`, `recorded by adapters 1.3.0`, or `none: ...` with the
            reason.
        judged_to: Length in tokens of the longest checked text, if the model accepts longer texts or has a border
            beyond it; else None.
        machine: What the check ran on; None for reports that were put together by hand.
        manifest: The manifest that was judged, with the digests of all files; None likewise.
        manifest_sha256: Its own digest, which `AdapterSession(expect_sha256=)` takes; None likewise.
        departure: Where the bundle departs from PyTorch, if a case failed and PyTorch is there; else None.
    """

    bundle: Path
    mode: str
    task: str
    dtype: str
    provider: str
    checks: tuple[ParityCheck, ...]
    results: tuple[ParityResult, ...] = ()
    notes: tuple[str, ...] = ()
    placement: Mapping[str, float] | None = None
    witnesses: Mapping[str, str] = field(default_factory=dict)
    judged_to: int | None = None
    machine: Machine | None = None
    manifest: Manifest | None = None
    manifest_sha256: str | None = None
    departure: ParityDeparture | None = None

    @property
    def witnessed(self) -> bool:
        """Whether every adapter has a witness other than our own reading of its checkpoint."""
        return not any(name.startswith(NONE) for name in self.witnesses.values())

    @property
    def outcome(self) -> str:
        """The verdict in words. A pass names what it does not cover.

        `pass (unwitnessed)` if an adapter has no witness, `pass (not judged beyond 512 tokens)` if longer texts were
        not checked, or both, separated by a semicolon.
        """
        limits = [] if self.witnessed else ["unwitnessed"]
        if self.judged_to is not None:
            limits.append(f"not judged beyond {self.judged_to} tokens")
        passed = self.verdict is Verdict.PASS
        return f"{self.verdict.value} ({'; '.join(limits)})" if passed and limits else self.verdict.value

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all checks and cases; at best INCONCLUSIVE if no case was run."""
        if not self.results:
            return worst([Verdict.INCONCLUSIVE, *(check.verdict for check in self.checks)])
        return worst([*(check.verdict for check in self.checks), *(item.judgement.verdict for item in self.results)])

    def of(self, adapter: str) -> tuple[ParityResult, ...]:
        """Returns the results of one adapter."""
        return tuple(item for item in self.results if item.adapter == adapter)


def summary(report: ParityReport) -> list[dict[str, Any]]:
    """Returns one object per adapter: its verdict and, over its cases, the worst value of every number."""
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
    """Returns the report as an object for JSON."""
    return {
        "verdict": report.outcome,
        "witnesses": dict(report.witnesses),
        "bundle": report.bundle,
        "mode": report.mode,
        "task": report.task,
        "dtype": report.dtype,
        "provider": report.provider,
        "placement": report.placement,
        "machine": None if report.machine is None else asdict(report.machine),
        "manifest_sha256": report.manifest_sha256,
        "files": {} if report.manifest is None else dict(report.manifest.files),
        "checks": [asdict(check) | {"verdict": check.verdict.value} for check in report.checks],
        "adapters": summary(report),
        "cases": [
            {"adapter": item.adapter, "case": item.case.name, "output": item.output}
            | asdict(item.judgement)
            | {"verdict": item.judgement.verdict.value}
            for item in report.results
        ],
        "where_it_broke": None if report.departure is None else asdict(report.departure),
        "notes": list(report.notes),
    }


def _largest(values: Iterable[float]) -> float | None:
    return max(values, default=None)


def _smallest(values: Iterable[float]) -> float | None:
    return min(values, default=None)
