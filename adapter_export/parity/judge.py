"""The law: when numbers count as proof that the graph computes what the model does.

    e(x)   = max|x - R| / rms(R)                over unpadded positions
    effect = max|R_on - R_off| / rms(R_on)
    cosine = cosine(O_on - O_off, R_on - R_off)
with rms(R) over all cases of an adapter: the two logits of a single row may both happen to be near zero, where a
harmless error would look large.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from adapter_export.parity.measure import OFF, Error, Fit, Measure, Tokens


class Verdict(str, Enum):
    """Ordered from best to worst. INCONCLUSIVE is no pass: what was seen would look the same for a wrong graph."""

    PASS = "pass"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of them; PASS of none."""
    order = list(Verdict)
    return max(verdicts, key=order.index, default=Verdict.PASS)


@dataclass(frozen=True)
class Limits:
    """Thresholds of one dtype; how they were calibrated is in `docs/parity.md`.

    e(O) <= slack * e(T) + floor, and e(O) <= ceiling; effect / e(O) >= effect; cosine >= cosine.
    """

    floor: float
    ceiling: float
    effect: float
    cosine: float
    slack: float = 3.0


LIMITS: Mapping[str, Limits] = {
    "float32": Limits(floor=1e-5, ceiling=1e-4, effect=100, cosine=0.9999),
    "float16": Limits(floor=6e-3, ceiling=2e-2, effect=10, cosine=0.99),
    "bfloat16": Limits(floor=4.8e-2, ceiling=1e-1, effect=10, cosine=0.99),
}


# An error of more ceilings is the graph's: those of 1% in one tensor begin at 17.
NEARLY = 10


@dataclass(frozen=True)
class Judgement:
    """verdict, the reasons for it when it is no pass, and the numbers; None for a number that could not be taken.

    error, target_error: e(O) and e(T) with the adapter. off_error: e(O) without its body.
    """

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    error: Error | None = None
    target_error: Error | None = None
    off_error: Error | None = None
    effect: float | None = None
    cosine: float | None = None
    tokens: Tokens | None = None


def judge(measures: Sequence[Measure], limits: Limits) -> list[Judgement]:
    """Points 1 to 4 for one output of one adapter: a judgement for each of its cases."""
    rms_on = rms(item.on for item in measures)
    rms_off = rms(item.off for item in measures)
    return [_judge(item, rms_on, rms_off, limits) for item in measures]


def nearly_right(measures: Sequence[Measure], limits: Limits, *, failed: bool) -> list[bool]:
    """Which cases are no pass, and O is so near R that the inputs may be to blame; failed: those that fail as well."""
    verdicts = (Verdict.FAIL, Verdict.INCONCLUSIVE) if failed else (Verdict.INCONCLUSIVE,)

    def near(judgement: Judgement) -> bool:
        errors = [error.max for error in (judgement.error, judgement.off_error) if error is not None]
        return limits.floor < max(errors, default=0.0) <= NEARLY * limits.ceiling

    return [judgement.verdict in verdicts and near(judgement) for judgement in judge(measures, limits)]


def _judge(item: Measure, rms_on: float, rms_off: float, limits: Limits) -> Judgement:
    fails, doubts = list(item.fails), list(item.doubts)
    error = target = off_error = effect = None
    if item.on is not None:
        error, target = _close("", item.on, rms_on, limits, fails, doubts)
    if item.off is not None:
        off_error, _ = _close(OFF, item.off, rms_off, limits, fails, doubts)
    if item.change is not None and error is not None:
        effect = item.change / rms_on
        _right(effect, error.max, item.cosine, limits, fails, doubts)
    if item.tokens is not None:
        _chosen(item.tokens, fails, doubts)
    verdict = Verdict.FAIL if fails else Verdict.INCONCLUSIVE if doubts else Verdict.PASS
    return Judgement(verdict, (*fails, *doubts), error, target, off_error, effect, item.cosine, item.tokens)


def _close(
    prefix: str, fit: Fit, rms: float, limits: Limits, fails: list[str], doubts: list[str]
) -> tuple[Error, Error]:
    """Point 2: close to float64, as close as PyTorch itself is at this dtype. Returns the errors of O and of T."""
    error, target = fit.actual.relative(rms), fit.target.relative(rms)
    bound = limits.slack * target.max + limits.floor
    if error.max > bound:
        fails.append(f"{prefix}e(O) = {error.max:.2e} is above {limits.slack:g} e(T) + {limits.floor:g} = {bound:.2e}")
    elif error.max > limits.ceiling:
        line = f"{prefix}e(O) = {error.max:.2e} is above the ceiling {limits.ceiling:g}"
        if target.max > limits.ceiling:
            doubts.append(f"{line}, but so is PyTorch itself at this dtype: e(T) = {target.max:.2e}")
        else:
            fails.append(line)
    return error, target


def _right(
    effect: float, error: float, cosine: float | None, limits: Limits, fails: list[str], doubts: list[str]
) -> None:
    """Points 3 and 4: the adapter matters, and what it changed is the right change."""
    if effect == 0 or effect < limits.effect * error:
        # A cosine between changes of the size of rounding would say nothing: it is not looked at.
        doubts.append(
            f"the adapter changes the output too little to tell: effect = {effect:.2e}, expected {limits.effect:g} "
            f"e(O) = {limits.effect * error:.2e} or more"
        )
    elif cosine is None:
        fails.append("the output is the same with the adapter and without it")
    elif cosine < limits.cosine:
        fails.append(f"the change is another one: cosine = {cosine:.6f}, below {limits.cosine:g}")


def _chosen(tokens: Tokens, fails: list[str], doubts: list[str]) -> None:
    """Where the choice is clear, it is PyTorch's."""
    if wrong := tokens.clear - tokens.agreed:
        fails.append(f"another token than PyTorch's at {wrong} of {tokens.clear} with a clear margin")
    elif not tokens.clear:
        doubts.append(f"of {tokens.count} tokens none has a margin above twice the error")


def rms(fits: Iterable[Fit | None]) -> float:
    """Of R over all positions of several cases; NaN of none."""
    found = [fit for fit in fits if fit is not None]
    count = sum(fit.count for fit in found)
    return math.sqrt(sum(fit.squares for fit in found) / count) if count else math.nan
