"""The law for weights in 8 bits. Single numbers say little there: what counts is taken over all cases of an adapter.

    error      = mean|O - R| / rms(R), with the adapter and without its body
    effect     = rms(R_on - R_off) / rms(O_on - R_on)
    cosine     = cosine(O_on - O_off, R_on - R_off)
    divergence = mean KL(softmax R || softmax O), of logits
and wherever a choice among logits is clear (see `measure.MARGIN`), O must choose as R does.

On SmolLM2-135M the largest error of a logit is 0.35 to 0.9 rms(R), of tokens that nobody would choose, while the
divergence is 0.007 to 0.01 and every clear choice is kept: hence means, and no largest values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from operator import add

from adapter_export.parity.judge import Judgement, Verdict, rms
from adapter_export.parity.measure import OFF, Choice, Fit, Measure

# Thresholds; how they were calibrated is in `docs/parity.md`.
ERROR = 0.1
EFFECT = 2.0
COSINE = 0.8
DIVERGENCE = 0.05


def judge_quantized(measures: Sequence[Measure]) -> list[Judgement]:
    """A judgement for each case of one output of one adapter; what is found over all of them stands in the first."""
    found = [_alone(item) for item in measures]
    fails, doubts = [], []
    rms_on, rms_off = rms(item.on for item in measures), rms(item.off for item in measures)
    for prefix, fits, size in (("", [m.on for m in measures], rms_on), (OFF, [m.off for m in measures], rms_off)):
        fails += _close(prefix, [fit for fit in fits if fit is not None], size)
    changes = [item.change_sums for item in measures if item.change_sums is not None]
    effect = cosine = None
    if changes:
        whole = reduce(add, changes)
        effect, cosine = whole.effect, whole.cosine
        if effect < EFFECT:
            doubts.append(
                f"over all cases: the adapter changes the output too little to tell: effect = {effect:.2f}, expected "
                f"{EFFECT:g} or more"
            )
        elif cosine is None or cosine < COSINE:
            fails.append(f"over all cases: the change is another one: cosine = {cosine or 0:.4f}, below {COSINE:g}")
    judged = [
        replace(
            judgement,
            error=None if item.on is None else item.on.actual.relative(rms_on),
            target_error=None if item.on is None else item.on.target.relative(rms_on),
            off_error=None if item.off is None else item.off.actual.relative(rms_off),
            effect=effect,
            cosine=cosine,
            tokens=item.tokens,
        )
        for judgement, item in zip(found, measures, strict=True)
    ]
    return [_with(judged[0], fails, doubts), *judged[1:]] if judged else []


def _alone(item: Measure) -> Judgement:
    """What a case shows by itself: the form of its outputs, and its clear choices."""
    fails = list(item.fails)
    for prefix, fit in (("", item.on), (OFF, item.off)):
        if fit is not None and fit.choice is not None and (wrong := fit.choice.clear - fit.choice.agreed):
            fails.append(f"{prefix}another class on top at {wrong} of {fit.choice.clear} clear positions")
    return _with(Judgement(Verdict.PASS), fails, list(item.doubts))


def _close(prefix: str, fits: Sequence[Fit], size: float) -> list[str]:
    fails = []
    if fits:
        error = sum(fit.actual.mean * fit.count for fit in fits) / sum(fit.count for fit in fits) / size
        if not error <= ERROR:
            fails.append(f"{prefix}over all cases: mean error = {error:.2e} is above {ERROR:g}")
    choices = [fit.choice for fit in fits if fit.choice is not None]
    if choices and (divergence := mean_divergence(choices)) > DIVERGENCE:
        fails.append(f"{prefix}over all cases: KL = {divergence:.2e} is above {DIVERGENCE:g}")
    return fails


def mean_divergence(choices: Iterable[Choice]) -> float:
    """Over all positions of the choices."""
    found = list(choices)
    return sum(choice.divergence * choice.positions for choice in found) / sum(choice.positions for choice in found)


def _with(judgement: Judgement, fails: list[str], doubts: list[str]) -> Judgement:
    reasons = (*judgement.reasons, *fails, *doubts)
    verdict = judgement.verdict
    if doubts and verdict is Verdict.PASS:
        verdict = Verdict.INCONCLUSIVE
    return replace(judgement, verdict=Verdict.FAIL if fails else verdict, reasons=reasons)
