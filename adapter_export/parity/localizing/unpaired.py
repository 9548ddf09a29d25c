"""What a report says about where a bundle broke if the values of PyTorch are not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.localizing.departure import ParityCause, ParityDeparture
from adapter_export.parity.report import ParityResult


def unpaired(bundle: Path, results: Sequence[ParityResult]) -> ParityDeparture | None:
    """Returns the departure of a check by records; None if no case failed.

    Args:
        bundle: Folder of the bundle.
        results: The results of the check.
    """
    failed = next((item for item in results if item.judgement.verdict is Verdict.FAIL), None)
    if failed is None:
        return None
    return ParityDeparture(
        failed.adapter,
        failed.case.name,
        "with the adapter",
        ParityCause(
            "not looked for",
            "the reference is a record, which has the outputs of the model and no values inside of it",
            f"run `adapter-export parity --bundle {bundle} --model DIR --adapter NAME=DIR` where PyTorch is installed",
        ),
    )
