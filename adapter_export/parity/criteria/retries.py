"""Repeats cases whose failure may come from sensitive random inputs.

For some random texts, rounding alone changes the outputs of a model by more than the tolerance. One PyTorch run at the
graph's dtype (T) then does not measure what the dtype can reach: the error of ONNX Runtime (O) may be three times as
large by chance. So a case that did not pass although the error of O is small is repeated:

1. With T computed in ROUNDINGS different roundings. The largest error of them is e(T).
2. Only if PyTorch itself then exceeds the ceiling: with new inputs of the same shape, at most DRAWS times.

A wrong graph fails in both steps, because its error does not depend on the inputs. A failure in step 1 is final.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adapter_export.parity.cases import ParityCase
from adapter_export.parity.criteria.measure import Measurement
from adapter_export.parity.criteria.select import CaseFilter, Criteria

# Where a single direction of the rounding dominates, the errors follow a normal distribution. By chance, the first of
# two errors is more than three times as large as the second in one of 5 pairs. The first of nine errors is more than
# three times as large as all the others in one of 1,200.
ROUNDINGS = 8
DRAWS = 3

# Measurements of one case, by (adapter, output).
Measurements = Mapping[tuple[str, str], Measurement]
# Measurements of all cases, by (adapter, output).
Measured = dict[tuple[str, str], dict[ParityCase, Measurement]]
# Measures one case again: rerun(case, draw, roundings). draw: 0 for the first inputs, 1 and more for new inputs.
# roundings: the number of roundings in which T is computed.
Rerun = Callable[[ParityCase, int, int], Measurements]


def retry_sensitive_cases(measured: Measured, criteria: Criteria, rerun: Rerun) -> list[str]:
    """Repeats sensitive cases, and replaces their measurements.

    Args:
        measured: The measurements of all cases. Changed in place.
        criteria: Select the cases to repeat.
        rerun: Measures one case again.

    Returns:
        One note for the report per repetition.
    """
    notes = []
    for case in _select_cases(measured, criteria.needs_more_roundings):
        _replace(measured, case, rerun(case, 0, ROUNDINGS))
        notes.append(
            f"case {case.name}: the inputs make much of rounding; e(T) is the largest of {ROUNDINGS} roundings"
        )
    for draw in range(1, DRAWS + 1):
        for case in _select_cases(measured, criteria.needs_new_inputs):
            _replace(measured, case, rerun(case, draw, ROUNDINGS))
            notes.append(f"case {case.name}: PyTorch's own rounding hid what was to be judged; drawn anew ({draw})")
    return notes


def _select_cases(measured: Measured, case_filter: CaseFilter) -> list[ParityCase]:
    """Returns the cases that the filter selects for at least one output of one adapter."""
    selected: dict[ParityCase, None] = {}
    for items in measured.values():
        flags = case_filter(list(items.values()))
        selected |= {case: None for case, flag in zip(items, flags, strict=True) if flag}
    return list(selected)


def _replace(measured: Measured, case: ParityCase, new: Measurements) -> None:
    for key, item in new.items():
        measured[key][case] = item
