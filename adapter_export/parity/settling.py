"""Cases that did not pass although O is nearly right: random inputs may be to blame.

Some texts make a model so sensitive that rounding alone moves its outputs by more than they are judged by. One T is
then no measure of what the dtype can do, and one O may by chance be three times further away. So the case is

1. looked at again with T computed in ROUNDINGS ways, of which the furthest from R counts;
2. where T then turns out to be above the ceiling itself, done with other inputs of its shape, DRAWS times at most.

A wrong graph does not get by: its error is there whatever the inputs, and a failure at step 1 stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adapter_export.parity.cases import Case
from adapter_export.parity.criteria import CaseFilter, Criteria
from adapter_export.parity.measure import Measure

# Where one direction of the rounding decides, errors are normal numbers: by chance the first of two is more than three
# times the other in one of 5 pairs, and the first of nine more than three times all the others in one of 1,200.
ROUNDINGS = 8
DRAWS = 3

# By adapter and output.
Measures = Mapping[tuple[str, str], Measure]
Measured = dict[tuple[str, str], dict[Case, Measure]]
# Measures a case: with which inputs, 0 being the first ones, and in how many ways T.
Rerun = Callable[[Case, int, int], Measures]


def settle(measured: Measured, criteria: Criteria, rerun: Rerun) -> list[str]:
    """Put in `measured` what cases give that are looked at again; returns notes on them."""
    notes = []
    for case in _picked(measured, criteria.needs_more_roundings):
        _put(measured, case, rerun(case, 0, ROUNDINGS))
        notes.append(
            f"case {case.name}: the inputs make much of rounding; e(T) is the largest of {ROUNDINGS} roundings"
        )
    for draw in range(1, DRAWS + 1):
        for case in _picked(measured, criteria.needs_new_inputs):
            _put(measured, case, rerun(case, draw, ROUNDINGS))
            notes.append(f"case {case.name}: PyTorch's own rounding hid what was to be judged; drawn anew ({draw})")
    return notes


def _picked(measured: Measured, picks: CaseFilter) -> list[Case]:
    """The cases that are picked for any output of any adapter."""
    found: dict[Case, None] = {}
    for items in measured.values():
        chosen = picks(list(items.values()))
        found |= {case: None for case, wanted in zip(items, chosen, strict=True) if wanted}
    return list(found)


def _put(measured: Measured, case: Case, found: Measures) -> None:
    for key, item in found.items():
        measured[key][case] = item
