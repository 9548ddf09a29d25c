"""Cases looked at again: sensitive inputs get by, wrong graphs do not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from adapter_export.parity.cases import Case
from adapter_export.parity.criteria import Criteria
from adapter_export.parity.judge import Limits, Verdict, judge, nearly_right
from adapter_export.parity.measure import Error, Fit, Measure
from adapter_export.parity.settling import DRAWS, ROUNDINGS, Measured, settle

LIMIT = Limits(floor=1e-5, ceiling=1e-4, effect=100, cosine=0.9)
CRITERIA = Criteria(
    partial(judge, limits=LIMIT),
    partial(nearly_right, limits=LIMIT, failed=True),
    partial(nearly_right, limits=LIMIT, failed=False),
)
GOOD, ODD = Case(2, 9), Case(1, 13, "right")
KEYS = [("(no adapter)", "logits"), ("ia3", "logits")]


def item(actual: float, target: float, change: float = 1.0) -> Measure:
    fit = Fit(Error(actual, actual, actual), Error(target, target, target), squares=10, count=10)
    return Measure(on=fit, change=change, cosine=1.0)


FINE = item(2e-6, 2e-6)


def settled(odd: Measure, again: Callable[[int], Measure]) -> tuple[list[Verdict], list[tuple[int, int]], list[str]]:
    """Verdicts on the odd case of one adapter, which draws and roundings were asked for, and the notes."""
    measured: Measured = {KEYS[0]: {GOOD: FINE, ODD: FINE}, KEYS[1]: {GOOD: FINE, ODD: odd}}
    asked: list[tuple[int, int]] = []

    def rerun(case: Case, draw: int, roundings: int) -> dict[tuple[str, str], Measure]:
        assert case == ODD
        asked.append((draw, roundings))
        return dict.fromkeys(KEYS, again(draw))

    notes = settle(measured, CRITERIA, rerun)
    return [judge(list(measured[key].values()), LIMIT)[1].verdict for key in KEYS], asked, notes


def test_an_unlucky_t_is_computed_in_more_ways() -> None:
    found, asked, notes = settled(item(8e-5, 1.8e-5), lambda draw: item(8e-5, 9e-5))
    assert found == [Verdict.PASS, Verdict.PASS]
    assert asked == [(0, ROUNDINGS)]
    assert notes == ["case 1 x 13 right: the inputs make much of rounding; e(T) is the largest of 8 roundings"]


def test_an_error_that_no_rounding_explains_stands() -> None:
    found, asked, _ = settled(item(8e-5, 1e-6), lambda draw: item(8e-5, 1.2e-5))
    assert found == [Verdict.FAIL, Verdict.FAIL]
    assert asked == [(0, ROUNDINGS)]


def test_inputs_that_hide_everything_are_drawn_anew() -> None:
    found, asked, notes = settled(item(3e-4, 2e-4), lambda draw: FINE if draw == 2 else item(3e-4, 2e-4))
    assert found == [Verdict.PASS, Verdict.PASS]
    assert asked == [(0, ROUNDINGS), (1, ROUNDINGS), (2, ROUNDINGS)]
    assert notes[1:] == [
        f"case 1 x 13 right: PyTorch's own rounding hid what was to be judged; drawn anew ({n})" for n in (1, 2)
    ]


def test_other_inputs_that_fail_are_not_drawn_again() -> None:
    found, asked, _ = settled(item(3e-4, 2e-4), lambda draw: item(3e-4, 2e-4 if draw == 0 else 1e-6))
    assert found == [Verdict.FAIL, Verdict.FAIL]
    assert asked == [(0, ROUNDINGS), (1, ROUNDINGS)]


def test_not_for_ever() -> None:
    found, asked, _ = settled(item(3e-4, 2e-4), lambda draw: item(3e-4, 2e-4))
    assert found == [Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE]
    assert [draw for draw, _ in asked] == list(range(DRAWS + 1))


@pytest.mark.parametrize(
    ("odd", "verdict"),
    [
        (FINE, Verdict.PASS),
        (item(1.1e-3, 1e-6), Verdict.FAIL),
        (item(9e-6, 3e-6, change=1e-6), Verdict.INCONCLUSIVE),
        (Measure(fails=("did not run: no",)), Verdict.FAIL),
    ],
    ids=["it passed", "far too wrong", "a faint adapter", "no numbers"],
)
def test_what_rounding_cannot_explain_is_not_looked_at(odd: Measure, verdict: Verdict) -> None:
    found, asked, notes = settled(odd, lambda draw: FINE)
    assert (found[1], asked, notes) == (verdict, [], [])
