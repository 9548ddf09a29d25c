"""Parity's criteria: over arrays, for what `check_parity` does not run, such as TF32; and over its reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from adapter_export.parity.criteria.judge import THRESHOLDS, Judgement, Verdict, judge
from adapter_export.parity.criteria.measure import OutputArrays, OutputSet, measure
from adapter_export.parity.report import ParityReport
from adapter_export.providers import Provider

# R, T and O of some inputs with an adapter, or without one if it is None.
Outputs = Callable[[Mapping[str, np.ndarray], str | None], OutputArrays]


def judged(
    outputs: Outputs, cases: Sequence[Mapping[str, np.ndarray]], adapter: str, dtype: str, threshold: str
) -> list[Judgement]:
    """Judges the cases of one adapter by points 1 to 4 of docs/parity.md.

    Args:
        outputs: Computes R, T and O.
        cases: Inputs with an attention mask.
        adapter: Name of the adapter.
        dtype: Of the output.
        threshold: The dtype by whose thresholds the numbers are judged.
    """
    measured = [
        measure(OutputSet(outputs(case, adapter), outputs(case, None), case["attention_mask"].astype(bool), dtype))
        for case in cases
    ]
    return judge(measured, THRESHOLDS[threshold])


def assert_passes(report: ParityReport, provider: Provider, figure: Callable[[str], None]) -> None:
    """A verdict of PASS, on this provider. Says how large the errors were."""
    judgements = [item.judgement for item in report.results]
    reasons = [item.reasons for item in judgements if item.reasons]
    errors = [item.error.max for item in judgements if item.error is not None]
    targets = [item.target_error.max for item in judgements if item.target_error is not None]
    figure(
        f"{report.bundle.parent.name}, {report.dtype}: {len(judgements)} cases, e(O) up to "
        f"{max(errors, default=np.nan):.1e}, e(T) up to {max(targets, default=np.nan):.1e}; "
        f"{', '.join(f'{share:.0%} of nodes on {name}' for name, share in (report.placement or {}).items())}"
    )
    # Of the placement, the check `provider` is a part of the verdict.
    assert report.verdict is Verdict.PASS, (reasons, report.checks)
    assert provider.execution_provider in (report.placement or {})
