"""The law for 8-bit weights: each threshold is passed by a hair and missed by a hair, over all cases together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter_export.parity.judge import Verdict
from adapter_export.parity.measure import Change, Choice, Error, Fit, Measure
from adapter_export.parity.quantized import COSINE, DIVERGENCE, EFFECT, ERROR, judge_quantized

PASS, INCONCLUSIVE, FAIL = Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL
CHOICE = Choice(divergence=0.01, positions=10, clear=8, agreed=8)


def fit(mean: float, choice: Choice | None = CHOICE) -> Fit:
    # The largest error does not count.
    return Fit(Error(9.0, 5.0, mean), Error(0.0, 0.0, 0.0), squares=10.0, count=10, choice=choice)


def case(mean: float = 0.01, size: float = 1.0, cosine: float = 0.95, choice: Choice | None = CHOICE) -> Measure:
    sums = Change(cosine * size**2, size**2, size**2, error=0.01)
    return Measure(on=fit(mean, choice), off=fit(0.01, choice), change=size, cosine=cosine, change_sums=sums)


def verdicts(*cases: Measure) -> list[Verdict]:
    return [judgement.verdict for judgement in judge_quantized(cases)]


def test_a_pass_has_the_numbers_of_all_cases() -> None:
    first, second = judge_quantized([case(), case(cosine=0.85)])
    assert (first.verdict, first.reasons, first.effect) == (PASS, (), 10.0)
    assert first.cosine == second.cosine == pytest.approx(0.9)
    assert first.error is not None
    assert first.error.max == 9.0
    assert judge_quantized([]) == []


def test_the_mean_error_with_and_without_the_adapter() -> None:
    assert verdicts(case(1.999 * ERROR - 0.01), case()) == [PASS, PASS]
    assert verdicts(case(2.001 * ERROR - 0.01), case()) == [FAIL, PASS]
    (off,) = judge_quantized([replace(case(), off=fit(1.001 * ERROR))])
    assert off.reasons == ("without the adapter: over all cases: mean error = 1.00e-01 is above 0.1",)
    assert verdicts(case(float("nan"))) == [FAIL]


def test_the_divergence_of_all_positions() -> None:
    far, near = (replace(CHOICE, divergence=value, positions=n) for value, n in ((2.99 * DIVERGENCE, 1), (0.0, 2)))
    assert verdicts(case(choice=far), case(choice=near)) == [PASS, PASS]
    assert verdicts(case(choice=far), case(choice=replace(near, positions=1))) == [FAIL, PASS]


def test_every_clear_choice() -> None:
    other = judge_quantized([case(), case(choice=replace(CHOICE, agreed=7))])
    assert [item.verdict for item in other] == [PASS, FAIL]
    assert other[1].reasons[0] == "another class on top at 1 of 8 clear positions"


def test_an_effect_too_small_to_tell_is_no_pass_whatever_its_direction() -> None:
    size = 0.1 * EFFECT
    assert verdicts(case(size=1.001 * size)) == [PASS]
    assert verdicts(case(size=0.999 * size, cosine=-1)) == [INCONCLUSIVE]
    # One case may show nothing where others do.
    assert verdicts(case(), case(size=0.01, cosine=-1)) == [PASS, PASS]


def test_the_direction_of_the_change() -> None:
    assert verdicts(case(cosine=1.001 * COSINE)) == [PASS]
    assert verdicts(case(cosine=0.999 * COSINE)) == [FAIL]
    dropped = replace(case(), cosine=None, change_sums=Change(0.0, 0.0, 1.0, 0.01))
    assert verdicts(dropped) == [FAIL]


def test_what_is_wrong_with_the_form_stays() -> None:
    broken, doubtful = Measure(fails=("dtype: no",)), Measure(doubts=("PyTorch gives NaN",))
    assert verdicts(case(), broken, doubtful) == [PASS, FAIL, INCONCLUSIVE]
