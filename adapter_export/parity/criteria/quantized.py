"""Acceptance criteria for weights in 8 or 4 bits.

T is PyTorch with the same quantized weights (`recording.few_bits`); R is the model with its original weights.

For each case:
    e(x) = mean|x - R| / rms(R), and e(O) <= 3 e(T) + FLOOR, on and off. At positions where the class of the largest
    logit is clear in R, and T predicts it too, O must predict it as well.

Over all cases of an adapter:
    effect: rms(R_on - R_off) / rms(O_on - R_on).
    change: compare O_on - O_off with R_on - R_off by their cosine. Effect and cosine are computed from sums over all
    cases; a case is weighted by 1 / e(T)^2, because cases with large quantization error carry little information.
    cost of the bits: the median over the cases of e(O) and, for logits, of KL(softmax R || softmax O).

Means are used because single values carry little information: on SmolLM2-135M the largest error of a logit is 0.35 to
0.9 rms(R), for tokens that would never be generated. Some random texts carry no information about 8 bits: where the
rounding error of float32 is 20 times as large as for other texts, 8 bits change the logits by half of rms(R), in
PyTorch as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np

from adapter_export.bundle.precision import Quantization
from adapter_export.parity.criteria.judge import Judgement, Verdict, relative_counts, rms
from adapter_export.parity.criteria.measure import OFF, ClassAgreement, ErrorPair, Measurement

# Thresholds. `docs/parity.md` describes their calibration.
SLACK = 3.0
FLOOR = 0.01
COSINE = 0.8
# Begins the reasons that no single case shows, and those among them that concern the bits alone.
ALL_CASES = "over all cases"
COST = f"{ALL_CASES}, the cost of the bits: "
# Lower bound of e(T) in the weights, so that a case in which T has no error does not outweigh all others.
_MIN_TARGET_ERROR = 1e-6


@dataclass(frozen=True)
class QuantizedLimits:
    """What depends on the number of bits.

    Attributes:
        effect: The smallest effect, below which a verdict is inconclusive.
        error: The largest cost as e(O).
        divergence: The largest cost as KL, in nats.
    """

    effect: float
    error: float
    divergence: float


LIMITS = {Quantization.INT8: QuantizedLimits(2.0, 0.1, 0.05), Quantization.INT4: QuantizedLimits(1.0, 0.4, 0.5)}


def judge_quantized(measurements: Sequence[Measurement], limits: QuantizedLimits) -> list[Judgement]:
    """Judges the cases of one output of one adapter.

    Args:
        measurements: One per case.
        limits: The limits for the bits of the weights.

    Returns:
        One judgement per case. The reasons that concern all cases together are added to the first one.
    """
    judgements = judge_each_case(measurements)
    fails, doubts = [], []
    for prefix, pairs in (("", [item.on for item in measurements]), (OFF, [item.off for item in measurements])):
        fails += _check_cost(prefix, [pair for pair in pairs if pair is not None], rms(pairs), limits)
    weighted = [
        item.effect_sums * max(item.on.target.mean, _MIN_TARGET_ERROR) ** -2
        for item in measurements
        if item.effect_sums is not None and item.on is not None
    ]
    effect = cosine = None
    if weighted:
        total = reduce(add, weighted)
        effect, cosine = total.effect, total.cosine
        if effect < limits.effect:
            doubts.append(
                f"{ALL_CASES}: the adapter changes the output too little to tell: effect = {effect:.2f}, expected "
                f"{limits.effect:g} or more"
            )
        elif cosine is None or cosine < COSINE:
            fails.append(f"{ALL_CASES}: the change is another one: cosine = {cosine or 0:.4f}, below {COSINE:g}")
    judgements = [replace(judgement, effect=effect, cosine=cosine) for judgement in judgements]
    return [_add_reasons(judgements[0], fails, doubts), *judgements[1:]] if judgements else []


def judge_each_case(measurements: Sequence[Measurement]) -> list[Judgement]:
    """Judges what each case shows on its own: the form of its arrays, its errors, and its clear positions."""
    rms_on, rms_off = rms(item.on for item in measurements), rms(item.off for item in measurements)
    judgements = []
    for item in measurements:
        fails = list(item.fails)
        for prefix, pair, case_rms in (("", item.on, rms_on), (OFF, item.off, rms_off)):
            if pair is not None:
                fails += _check_errors(prefix, pair, case_rms)
        counts, target_counts = relative_counts(item.on, rms_on)
        judgement = Judgement(
            Verdict.PASS,
            error=None if item.on is None else item.on.actual.relative(rms_on),
            target_error=None if item.on is None else item.on.target.relative(rms_on),
            off_error=None if item.off is None else item.off.actual.relative(rms_off),
            tokens=item.tokens,
            limit=None if item.on is None else SLACK * item.on.target.mean / rms_on + FLOOR,
            counts=counts,
            target_counts=target_counts,
        )
        judgements.append(_add_reasons(judgement, fails, list(item.doubts)))
    return judgements


def may_fail_by_chance(measurements: Sequence[Measurement]) -> list[bool]:
    """Returns for each case whether it fails by numbers that another rounding of T may explain."""
    return [
        judgement.verdict is Verdict.FAIL and item.on is not None and not item.fails
        for item, judgement in zip(measurements, judge_each_case(measurements), strict=True)
    ]


def _check_errors(prefix: str, pair: ErrorPair, rms_reference: float) -> list[str]:
    """Returns what fails in one state of one case."""
    fails = []
    error, target_error = pair.actual.mean / rms_reference, pair.target.mean / rms_reference
    if not error <= SLACK * target_error + FLOOR:
        fails.append(
            f"{prefix}mean error = {error:.2e} is above {SLACK:g} times PyTorch's with the same weights + {FLOOR:g} "
            f"= {SLACK * target_error + FLOOR:.2e}"
        )
    if (agreement := pair.class_agreement) is not None and agreement.wrong:
        fails.append(
            f"{prefix}another class on top at {agreement.wrong} of {agreement.clear} clear positions, where PyTorch "
            "with the same weights keeps it"
        )
    return fails


def _check_cost(prefix: str, pairs: Sequence[ErrorPair], rms_reference: float, limits: QuantizedLimits) -> list[str]:
    """Returns what fails in the cost of the bits. The median is used because single inputs may exceed every limit."""
    fails = []
    if pairs and not (error := float(np.median([pair.actual.mean for pair in pairs])) / rms_reference) <= limits.error:
        fails.append(f"{prefix}{COST}mean error = {error:.2e} is above {limits.error:g}")
    agreements = [pair.class_agreement for pair in pairs if pair.class_agreement is not None]
    if agreements and (divergence := median_divergence(agreements)) > limits.divergence:
        fails.append(f"{prefix}{COST}KL = {divergence:.2e} is above {limits.divergence:g}")
    return fails


def median_divergence(agreements: Iterable[ClassAgreement]) -> float:
    """Returns the median over the cases of the mean KL divergence, in nats."""
    return float(np.median([agreement.divergence for agreement in agreements]))


def _add_reasons(judgement: Judgement, fails: list[str], doubts: list[str]) -> Judgement:
    reasons = (*judgement.reasons, *fails, *doubts)
    verdict = judgement.verdict
    if doubts and verdict is Verdict.PASS:
        verdict = Verdict.INCONCLUSIVE
    return replace(judgement, verdict=Verdict.FAIL if fails else verdict, reasons=reasons)
