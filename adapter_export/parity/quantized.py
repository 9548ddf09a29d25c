"""The law for weights in 8 bits. T is PyTorch with the same weights in 8 bits (`eight_bits`), R the model as it was.

Of each case
    e(x) = mean|x - R| / rms(R)      e(O) <= 3 e(T) + FLOOR, on and off
    where a choice among logits is clear in R, and T makes it as well, so must O
and over all cases of an adapter
    change       O_on - O_off and R_on - R_off, each case by 1 / e(T)^2: what says little counts little
    effect       rms(R_on - R_off) / rms(O_on - R_on), cosine of both changes
    price        of the middle case: e(O), and for logits KL(softmax R || softmax O)

Single numbers say little: on SmolLM2-135M the largest error of a logit is 0.35 to 0.9 rms(R), of tokens that nobody
would choose. And some random texts say nothing about 8 bits: where float32's own rounding is 20 times what it is
elsewhere, 8 bits move the logits by half of rms(R), in PyTorch too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np

from adapter_export.parity.judge import Judgement, Verdict, rms
from adapter_export.parity.measure import OFF, Choice, Fit, Measure

# Thresholds; how they were calibrated is in `docs/parity.md`.
SLACK = 3.0
FLOOR = 0.01
EFFECT = 2.0
COSINE = 0.8
ERROR = 0.1
DIVERGENCE = 0.05
# Of e(T), so that a T without any error is not all that counts.
_LEAST = 1e-6


def judge_quantized(measures: Sequence[Measure]) -> list[Judgement]:
    """A judgement for each case of one output of one adapter; what is found over all of them stands in the first."""
    judged = judge_alone(measures)
    fails, doubts = [], []
    for prefix, fits in (("", [item.on for item in measures]), (OFF, [item.off for item in measures])):
        fails += _price(prefix, [fit for fit in fits if fit is not None], rms(fits))
    weighted = [
        item.change_sums * max(item.on.target.mean, _LEAST) ** -2
        for item in measures
        if item.change_sums is not None and item.on is not None
    ]
    effect = cosine = None
    if weighted:
        whole = reduce(add, weighted)
        effect, cosine = whole.effect, whole.cosine
        if effect < EFFECT:
            doubts.append(
                f"over all cases: the adapter changes the output too little to tell: effect = {effect:.2f}, expected "
                f"{EFFECT:g} or more"
            )
        elif cosine is None or cosine < COSINE:
            fails.append(f"over all cases: the change is another one: cosine = {cosine or 0:.4f}, below {COSINE:g}")
    judged = [replace(judgement, effect=effect, cosine=cosine) for judgement in judged]
    return [_with(judged[0], fails, doubts), *judged[1:]] if judged else []


def judge_alone(measures: Sequence[Measure]) -> list[Judgement]:
    """What each case shows by itself: the form of its outputs, their errors, and the clear choices."""
    rms_on, rms_off = rms(item.on for item in measures), rms(item.off for item in measures)
    judged = []
    for item in measures:
        fails = list(item.fails)
        for prefix, fit, size in (("", item.on, rms_on), (OFF, item.off, rms_off)):
            if fit is not None:
                fails += _close(prefix, fit, size)
        plain = Judgement(
            Verdict.PASS,
            error=None if item.on is None else item.on.actual.relative(rms_on),
            target_error=None if item.on is None else item.on.target.relative(rms_on),
            off_error=None if item.off is None else item.off.actual.relative(rms_off),
            tokens=item.tokens,
        )
        judged.append(_with(plain, fails, list(item.doubts)))
    return judged


def by_chance(measures: Sequence[Measure]) -> list[bool]:
    """Which cases fail by numbers that T might have had as well, had it rounded otherwise."""
    return [
        judgement.verdict is Verdict.FAIL and item.on is not None and not item.fails
        for item, judgement in zip(measures, judge_alone(measures), strict=True)
    ]


def _close(prefix: str, fit: Fit, size: float) -> list[str]:
    fails = []
    error, target = fit.actual.mean / size, fit.target.mean / size
    if not error <= SLACK * target + FLOOR:
        fails.append(
            f"{prefix}mean error = {error:.2e} is above {SLACK:g} times PyTorch's with the same weights + {FLOOR:g} "
            f"= {SLACK * target + FLOOR:.2e}"
        )
    if fit.choice is not None and fit.choice.lost:
        fails.append(
            f"{prefix}another class on top at {fit.choice.lost} of {fit.choice.clear} clear positions, where PyTorch "
            "with the same weights keeps it"
        )
    return fails


def _price(prefix: str, fits: Sequence[Fit], size: float) -> list[str]:
    """What 8 bits cost, in the middle case: single inputs may be beyond them."""
    fails = []
    if fits and not (error := float(np.median([fit.actual.mean for fit in fits])) / size) <= ERROR:
        fails.append(f"{prefix}over all cases: mean error = {error:.2e} is above {ERROR:g}")
    choices = [fit.choice for fit in fits if fit.choice is not None]
    if choices and (divergence := middle_divergence(choices)) > DIVERGENCE:
        fails.append(f"{prefix}over all cases: KL = {divergence:.2e} is above {DIVERGENCE:g}")
    return fails


def middle_divergence(choices: Iterable[Choice]) -> float:
    """Of the middle case."""
    return float(np.median([choice.divergence for choice in choices]))


def _with(judgement: Judgement, fails: list[str], doubts: list[str]) -> Judgement:
    reasons = (*judgement.reasons, *fails, *doubts)
    verdict = judgement.verdict
    if doubts and verdict is Verdict.PASS:
        verdict = Verdict.INCONCLUSIVE
    return replace(judgement, verdict=Verdict.FAIL if fails else verdict, reasons=reasons)
