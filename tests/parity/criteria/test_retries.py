"""Repeated cases: failures by sensitive inputs are resolved, failures of wrong graphs remain."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from adapter_export.parity.cases import ParityCase
from adapter_export.parity.criteria.judge import Thresholds, Verdict, judge, may_be_sensitive
from adapter_export.parity.criteria.measure import Deviation, ErrorPair, Measurement
from adapter_export.parity.criteria.retries import DRAWS, ROUNDINGS, Measured, retry_sensitive_cases
from adapter_export.parity.criteria.select import Criteria

LIMIT = Thresholds(floor=1e-5, ceiling=1e-4, effect=100, cosine=0.9)
CRITERIA = Criteria(
    partial(judge, limits=LIMIT),
    partial(may_be_sensitive, limits=LIMIT, failed=True),
    partial(may_be_sensitive, limits=LIMIT, failed=False),
)
GOOD, SENSITIVE = ParityCase(2, 9), ParityCase(1, 13, "right")
KEYS = [("(no adapter)", "logits"), ("ia3", "logits")]


def item(actual: float, target: float, change: float = 1.0) -> Measurement:
    pair = ErrorPair(Deviation(actual, actual, actual), Deviation(target, target, target), squares=10, count=10)
    return Measurement(on=pair, change=change, cosine=1.0)


FINE = item(2e-6, 2e-6)


def retried(
    sensitive: Measurement, again: Callable[[int], Measurement]
) -> tuple[list[Verdict], list[tuple[int, int]], list[str]]:
    """Returns the verdicts on the sensitive case, the requested (draw, roundings), and the notes."""
    measured: Measured = {KEYS[0]: {GOOD: FINE, SENSITIVE: FINE}, KEYS[1]: {GOOD: FINE, SENSITIVE: sensitive}}
    asked: list[tuple[int, int]] = []

    def rerun(case: ParityCase, draw: int, roundings: int) -> dict[tuple[str, str], Measurement]:
        assert case == SENSITIVE
        asked.append((draw, roundings))
        return dict.fromkeys(KEYS, again(draw))

    notes = retry_sensitive_cases(measured, CRITERIA, rerun)
    return [judge(list(measured[key].values()), LIMIT)[1].verdict for key in KEYS], asked, notes


def test_more_roundings_resolve_a_small_e_of_t() -> None:
    found, asked, notes = retried(item(8e-5, 1.8e-5), lambda draw: item(8e-5, 9e-5))
    assert found == [Verdict.PASS, Verdict.PASS]
    assert asked == [(0, ROUNDINGS)]
    assert notes == ["case 1 x 13 right: the inputs make much of rounding; e(T) is the largest of 8 roundings"]


def test_an_error_that_no_rounding_explains_remains() -> None:
    found, asked, _ = retried(item(8e-5, 1e-6), lambda draw: item(8e-5, 1.2e-5))
    assert found == [Verdict.FAIL, Verdict.FAIL]
    assert asked == [(0, ROUNDINGS)]


def test_new_inputs_are_drawn_where_pytorch_exceeds_the_ceiling() -> None:
    found, asked, notes = retried(item(3e-4, 2e-4), lambda draw: FINE if draw == 2 else item(3e-4, 2e-4))
    assert found == [Verdict.PASS, Verdict.PASS]
    assert asked == [(0, ROUNDINGS), (1, ROUNDINGS), (2, ROUNDINGS)]
    assert notes[1:] == [
        f"case 1 x 13 right: PyTorch's own rounding hid what was to be judged; drawn anew ({n})" for n in (1, 2)
    ]


def test_new_inputs_that_fail_are_not_drawn_again() -> None:
    found, asked, _ = retried(item(3e-4, 2e-4), lambda draw: item(3e-4, 2e-4 if draw == 0 else 1e-6))
    assert found == [Verdict.FAIL, Verdict.FAIL]
    assert asked == [(0, ROUNDINGS), (1, ROUNDINGS)]


def test_new_inputs_are_drawn_a_few_times_at_most() -> None:
    found, asked, _ = retried(item(3e-4, 2e-4), lambda draw: item(3e-4, 2e-4))
    assert found == [Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE]
    assert [draw for draw, _ in asked] == list(range(DRAWS + 1))


@pytest.mark.parametrize(
    ("measurement", "verdict"),
    [
        (FINE, Verdict.PASS),
        (item(1.1e-3, 1e-6), Verdict.FAIL),
        (item(9e-6, 3e-6, change=1e-6), Verdict.INCONCLUSIVE),
        (Measurement(fails=("did not run: no",)), Verdict.FAIL),
    ],
    ids=["it passed", "far too wrong", "a faint adapter", "no numbers"],
)
def test_cases_that_rounding_cannot_explain_are_not_repeated(measurement: Measurement, verdict: Verdict) -> None:
    found, asked, notes = retried(measurement, lambda draw: FINE)
    assert (found[1], asked, notes) == (verdict, [], [])
