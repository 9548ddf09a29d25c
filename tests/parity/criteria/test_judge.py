"""The thresholds: values just inside each of them pass, values just outside do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter_export.parity.criteria.error_counts import ErrorCounts
from adapter_export.parity.criteria.judge import THRESHOLDS, Judgement, Thresholds, Verdict, judge, worst
from adapter_export.parity.criteria.measure import Deviation, ErrorPair, Measurement

PASS, INCONCLUSIVE, FAIL = Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL
LIMIT = Thresholds(floor=0.001, ceiling=0.1, effect=100, cosine=0.9)


def pair(actual: float, target: float, rms: float = 1) -> ErrorPair:
    return ErrorPair(
        Deviation(actual, actual, actual), Deviation(target, target, target), squares=10 * rms**2, count=10
    )


def only(item: Measurement, limits: Thresholds = LIMIT) -> Judgement:
    (judgement,) = judge([item], limits)
    return judgement


# All criteria pass, and e(O) is well below the effect.
FINE = Measurement(on=pair(0.002, 0.001), off=pair(0.002, 0.001), change=0.5, cosine=0.95)


def test_a_pass_has_numbers_and_no_reasons() -> None:
    error = Deviation(0.002, 0.002, 0.002)
    assert only(FINE) == Judgement(PASS, (), error, Deviation(0.001, 0.001, 0.001), error, 0.5, 0.95, limit=0.004)


@pytest.mark.parametrize("target", [0, 0.001, 0.01])
@pytest.mark.parametrize("side", ["on", "off"])
def test_error_against_the_target_dtype(side: str, target: float) -> None:
    bound = 3 * target + 0.001
    below = replace(FINE, **{side: pair(0.999 * bound, target)}, change=100)
    above = replace(FINE, **{side: pair(1.001 * bound, target)}, change=100)
    assert only(below).verdict is PASS
    judgement = only(above)
    assert judgement.verdict is FAIL
    (reason,) = judgement.reasons
    assert f"e(O) = {1.001 * bound:.2e} is above 3 e(T) + 0.001" in reason
    assert reason.startswith("without the adapter") == (side == "off")


def test_distributions_are_in_units_of_the_reference() -> None:
    counts = ErrorCounts(-9, (4, 6), 0)
    item = replace(FINE, on=replace(pair(0.002, 0.001, rms=2), actual_counts=counts, target_counts=counts))
    assert only(item).counts == only(item).target_counts == replace(counts, unit=2.0)
    assert only(FINE).counts is None


def test_ceiling() -> None:
    assert only(replace(FINE, on=pair(0.0999, 0.05), change=100)).verdict is PASS
    judgement = only(replace(FINE, on=pair(0.1001, 0.05), change=100))
    assert judgement.verdict is FAIL
    assert judgement.reasons == ("e(O) = 1.00e-01 is above the ceiling 0.1",)
    assert judgement.limit == 0.1


def test_above_the_ceiling_as_pytorch_itself_is_inconclusive() -> None:
    assert only(replace(FINE, on=pair(0.15, 0.12), change=100)).verdict is INCONCLUSIVE


def test_effect() -> None:
    assert only(replace(FINE, change=0.2001)).verdict is PASS
    judgement = only(replace(FINE, change=0.1999))
    assert judgement.verdict is INCONCLUSIVE
    assert judgement.reasons[0].startswith("the adapter changes the output too little to tell: effect = 2.00e-01")


def test_no_effect_is_inconclusive_even_without_error() -> None:
    assert only(replace(FINE, on=pair(0, 0), change=0, cosine=None)).verdict is INCONCLUSIVE


def test_cosine() -> None:
    assert only(replace(FINE, cosine=0.9001)).verdict is PASS
    judgement = only(replace(FINE, cosine=0.8999))
    assert judgement.verdict is FAIL
    assert judgement.reasons == ("the change is another one: cosine = 0.899900, below 0.9",)
    assert only(replace(FINE, cosine=None)).reasons == ("the output is the same with the adapter and without it",)


def test_a_cosine_of_rounding_errors_is_not_looked_at() -> None:
    assert only(replace(FINE, change=0.01, cosine=-1)).verdict is INCONCLUSIVE


def test_a_failure_outweighs_a_doubt() -> None:
    judgement = only(replace(FINE, on=pair(0.9, 0.001)))
    assert judgement.verdict is FAIL
    assert len(judgement.reasons) == 2
    assert only(Measurement(fails=("a",), doubts=("b",))) == Judgement(FAIL, ("a", "b"))


def test_no_adapter_is_judged_by_its_error_alone() -> None:
    assert only(Measurement(on=pair(0.002, 0.001))).verdict is PASS
    assert only(Measurement(on=pair(0.2, 0.001))).verdict is FAIL


def test_rms_is_taken_over_all_cases() -> None:
    # By its own rms, the second case would have e = 0.02 / 0.01 = 2.
    usual, small = pair(0.002, 0.001, rms=1), pair(0.002, 0.001, rms=0.01)
    judged = judge([Measurement(on=usual), Measurement(fails=("did not run",)), Measurement(on=small)], LIMIT)
    assert [item.verdict for item in judged] == [PASS, FAIL, PASS]
    assert judged[2].error is not None
    assert judged[2].error.max == pytest.approx(0.002 / ((1 + 0.0001) / 2) ** 0.5)
    assert only(Measurement(on=small)).verdict is FAIL


def test_worst() -> None:
    assert worst([]) is PASS
    assert worst([PASS, INCONCLUSIVE]) is INCONCLUSIVE
    assert worst([FAIL, INCONCLUSIVE, PASS]) is FAIL


def test_limits_are_ordered_by_precision() -> None:
    full, half, brain = (THRESHOLDS[name] for name in ("float32", "float16", "bfloat16"))
    assert full.floor < half.floor < brain.floor
    assert full.ceiling < half.ceiling < brain.ceiling
    assert all(limits.floor < limits.ceiling for limits in THRESHOLDS.values())
