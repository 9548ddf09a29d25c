"""Selects the acceptance criteria of a bundle: those for floating-point graphs or those for 8-bit weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from adapter_export.bundle.manifest import Manifest
from adapter_export.parity.criteria.judge import THRESHOLDS, Judgement, judge, may_be_sensitive
from adapter_export.parity.criteria.measure import Measurement
from adapter_export.parity.criteria.quantized import LIMITS, judge_quantized, may_fail_by_chance

# Takes the measurements of all cases, and returns for each case whether to repeat it.
CaseFilter = Callable[[Sequence[Measurement]], list[bool]]


@dataclass(frozen=True)
class Criteria:
    """The functions that judge one bundle.

    Each function takes the measurements of one output of one adapter, one per case, and returns one value per case.

    Attributes:
        judge: The verdict of each case, with its reasons and numbers.
        needs_more_roundings: True for cases to repeat with more roundings of the PyTorch reference.
        needs_new_inputs: True for cases to repeat with new inputs, because more roundings did not help.
    """

    judge: Callable[[Sequence[Measurement]], list[Judgement]]
    needs_more_roundings: CaseFilter
    needs_new_inputs: CaseFilter


def criteria_for(manifest: Manifest) -> Criteria:
    """Returns the criteria for the precision of the bundle's graph."""
    if manifest.quantize.used:
        judge_all = partial(judge_quantized, limits=LIMITS[manifest.quantize])
        return Criteria(judge_all, may_fail_by_chance, lambda measurements: [False for _ in measurements])
    limits = THRESHOLDS[manifest.dtype]
    return Criteria(
        partial(judge, limits=limits),
        partial(may_be_sensitive, limits=limits, failed=True),
        partial(may_be_sensitive, limits=limits, failed=False),
    )
