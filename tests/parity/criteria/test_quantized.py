"""The criteria for 8-bit weights: values just inside each threshold pass, values just outside do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from adapter_export.bundle.precision import Quantization
from adapter_export.parity.criteria.judge import Judgement, Verdict
from adapter_export.parity.criteria.measure import ClassAgreement, Deviation, EffectSums, ErrorPair, Measurement
from adapter_export.parity.criteria.quantized import (
    COSINE,
    FLOOR,
    LIMITS,
    judge_quantized,
    may_fail_by_chance,
)

EIGHT = LIMITS[Quantization.INT8]
EFFECT, ERROR, DIVERGENCE = EIGHT.effect, EIGHT.error, EIGHT.divergence
PASS, INCONCLUSIVE, FAIL = Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL
AGREEMENT = ClassAgreement(divergence=0.01, positions=10, clear=8, agreed=8, wrong=0)


def pair(mean: float, target: float = 0.01, agreement: ClassAgreement | None = AGREEMENT) -> ErrorPair:
    # The largest error is not used.
    return ErrorPair(
        Deviation(9.0, 5.0, mean), Deviation(8.0, 4.0, target), squares=10.0, count=10, class_agreement=agreement
    )


def case(
    mean: float = 0.01,
    size: float = 1.0,
    cosine: float = 0.95,
    agreement: ClassAgreement | None = AGREEMENT,
    target: float = 0.01,
) -> Measurement:
    sums = EffectSums(cosine * size**2, size**2, size**2, error=0.01)
    return Measurement(on=pair(mean, target, agreement), off=pair(0.01), change=size, cosine=cosine, effect_sums=sums)


def judged(cases: Sequence[Measurement]) -> list[Judgement]:
    return judge_quantized(cases, EIGHT)


def verdicts(*cases: Measurement) -> list[Verdict]:
    return [judgement.verdict for judgement in judged(cases)]


def test_a_pass_has_its_own_errors_and_the_change_of_all_cases() -> None:
    first, second = judged([case(), case(cosine=0.85)])
    assert (first.verdict, first.reasons) == (PASS, ())
    assert first.effect == pytest.approx(10.0)
    assert first.cosine == second.cosine == pytest.approx(0.9)
    assert (first.error, first.target_error) == (Deviation(9.0, 5.0, 0.01), Deviation(8.0, 4.0, 0.01))
    assert first.limit == pytest.approx(3 * 0.01 + 0.01)
    assert judged([]) == []


@pytest.mark.parametrize("target", [0.0, 0.005, 0.02])
def test_the_error_of_each_case_against_pytorch_with_the_same_weights(target: float) -> None:
    bound = 3 * target + FLOOR
    assert verdicts(case(), case(0.999 * bound, target=target), case()) == [PASS, PASS, PASS]
    assert verdicts(case(), case(1.001 * bound, target=target), case()) == [PASS, FAIL, PASS]
    (off,) = judged([replace(case(), off=pair(1.001 * bound, target))])
    assert off.reasons[0].startswith("without the adapter: mean error = ")
    assert verdicts(case(float("nan")))[0] is FAIL


def test_a_class_that_pytorch_keeps_with_the_same_weights() -> None:
    kept = replace(AGREEMENT, agreed=7)
    assert verdicts(case(), case(agreement=kept)) == [PASS, PASS]
    changed = judged([case(), case(agreement=replace(kept, wrong=1))])
    assert [item.verdict for item in changed] == [PASS, FAIL]
    assert changed[1].reasons == (
        "another class on top at 1 of 8 clear positions, where PyTorch with the same weights keeps it",
    )


def test_the_cost_is_the_median_over_the_cases() -> None:
    def three(middle: float, last: float) -> list[Verdict]:
        return verdicts(case(), case(middle, target=middle), case(last, target=last))

    assert three(0.999 * ERROR, 5.0) == [PASS, PASS, PASS]
    assert three(1.001 * ERROR, 5.0) == [FAIL, PASS, PASS]

    def divergences(middle: float) -> list[Verdict]:
        return verdicts(*(case(agreement=replace(AGREEMENT, divergence=value)) for value in (3.0, middle, 0.0)))

    assert divergences(0.999 * DIVERGENCE) == [PASS, PASS, PASS]
    assert divergences(1.001 * DIVERGENCE) == [FAIL, PASS, PASS]


def test_a_small_effect_is_inconclusive_in_any_direction() -> None:
    size = 0.1 * EFFECT
    assert verdicts(case(size=1.001 * size)) == [PASS]
    assert verdicts(case(size=0.999 * size, cosine=-1)) == [INCONCLUSIVE]
    # A single case may have too small an effect.
    assert verdicts(case(), case(size=0.01, cosine=-1)) == [PASS, PASS]


def test_the_direction_of_the_change() -> None:
    assert verdicts(case(cosine=1.001 * COSINE)) == [PASS]
    assert verdicts(case(cosine=0.999 * COSINE)) == [FAIL]
    dropped = replace(case(), cosine=None, effect_sums=EffectSums(0.0, 0.0, 1.0, 0.01))
    assert verdicts(dropped) == [FAIL]


def test_cases_with_large_quantization_error_hardly_count() -> None:
    wild = case(1.0, size=20.0, cosine=-1.0, target=0.5)
    assert verdicts(case(), case(), wild) == [PASS, PASS, PASS]
    # The same change with a small quantization error decides the direction.
    assert verdicts(case(), case(), replace(wild, on=pair(0.01))) == [FAIL, PASS, PASS]


def test_reasons_about_the_form_are_kept() -> None:
    broken, doubtful = Measurement(fails=("dtype: no",)), Measurement(doubts=("PyTorch gives NaN",))
    assert verdicts(case(), broken, doubtful) == [PASS, FAIL, INCONCLUSIVE]


def test_which_cases_may_have_failed_by_chance() -> None:
    changed = case(agreement=replace(AGREEMENT, wrong=1))
    assert may_fail_by_chance(
        [case(), case(0.5), changed, Measurement(fails=("did not run",)), case(size=0.01, cosine=-1)]
    ) == [
        False,
        True,
        True,
        False,
        False,
    ]


def test_four_bits_may_cost_more() -> None:
    four = LIMITS[Quantization.INT4]
    cases = [case(0.3, 5.0, target=0.3)]
    assert [judgement.verdict for judgement in judge_quantized(cases, four)] == [PASS]
    assert [judgement.verdict for judgement in judge_quantized(cases, EIGHT)] == [FAIL]
    assert [judgement.verdict for judgement in judge_quantized([case(1.001 * four.error, 5.0, target=0.3)], four)] == [
        FAIL
    ]
