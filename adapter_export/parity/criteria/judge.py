"""Acceptance criteria for graphs in floating point: when the numbers show that a graph computes what the model does.

    e(x)   = max|x - R| / rms(R)                over positions without padding
    effect = max|R_on - R_off| / rms(R_on)
    cosine = cosine(O_on - O_off, R_on - R_off)

rms(R) is taken over all cases of an adapter: both logits of a single row may be near zero by chance, and then a
harmless error would look large. The points are those of `docs/parity.md`, section "The criteria".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from adapter_export.parity.criteria.error_counts import ErrorCounts
from adapter_export.parity.criteria.measure import OFF, Deviation, ErrorPair, Measurement, TokenAgreement


class Verdict(str, Enum):
    """Ordered from best to worst. INCONCLUSIVE is not a pass: a wrong graph could have given the same numbers."""

    PASS = "pass"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Returns the worst of the verdicts; PASS if there are none."""
    order = list(Verdict)
    return max(verdicts, key=order.index, default=Verdict.PASS)


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of one dtype. `docs/parity.md` describes their calibration.

    A case passes only if e(O) <= slack * e(T) + floor, e(O) <= ceiling, effect / e(O) >= effect, and cosine >= cosine.
    """

    floor: float
    ceiling: float
    effect: float
    cosine: float
    slack: float = 3.0


THRESHOLDS: Mapping[str, Thresholds] = {
    "float32": Thresholds(floor=1e-5, ceiling=1e-4, effect=100, cosine=0.9999),
    "float16": Thresholds(floor=6e-3, ceiling=2e-2, effect=10, cosine=0.99),
    "bfloat16": Thresholds(floor=4.8e-2, ceiling=1e-1, effect=10, cosine=0.99),
}


# A case with an error of more than this many ceilings is not repeated: the graph is wrong. A single tensor that is off
# by 1% gives an error of at least 17 ceilings.
MAX_RETRY_CEILINGS = 10


@dataclass(frozen=True)
class Judgement:
    """The verdict on one output of one case. A number is None where it could not be measured.

    Attributes:
        verdict: The verdict.
        reasons: Why the verdict is not PASS.
        error: e(O) with the adapter.
        target_error: e(T) with the adapter.
        off_error: e(O) without the adapter's body.
        effect: See the module's docstring; for 8-bit weights see `quantized`.
        cosine: See the module's docstring.
        tokens: Counts of generated tokens.
        limit: The largest e(O) of a case that passes, with the adapter: min(slack * e(T) + floor, ceiling). For 8-bit
            weights it is one of mean errors, see `quantized`.
        counts: How many values of O have which error, with the adapter.
        target_counts: The same for T.
    """

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    error: Deviation | None = None
    target_error: Deviation | None = None
    off_error: Deviation | None = None
    effect: float | None = None
    cosine: float | None = None
    tokens: TokenAgreement | None = None
    limit: float | None = None
    counts: ErrorCounts | None = None
    target_counts: ErrorCounts | None = None


def judge(measurements: Sequence[Measurement], limits: Thresholds) -> list[Judgement]:
    """Judges the cases of one output of one adapter by points 1 to 4.

    Args:
        measurements: One per case.
        limits: Thresholds of the graph's dtype.

    Returns:
        One judgement per case.
    """
    rms_on = rms(item.on for item in measurements)
    rms_off = rms(item.off for item in measurements)
    return [_judge(item, rms_on, rms_off, limits) for item in measurements]


def may_be_sensitive(measurements: Sequence[Measurement], limits: Thresholds, *, failed: bool) -> list[bool]:
    """Selects the cases that did not pass although the error of O is small. Sensitive inputs may be the reason.

    Args:
        measurements: One per case.
        limits: Thresholds of the graph's dtype.
        failed: Whether failed cases are selected as well; otherwise only inconclusive ones are.

    Returns:
        One flag per case.
    """
    verdicts = (Verdict.FAIL, Verdict.INCONCLUSIVE) if failed else (Verdict.INCONCLUSIVE,)

    def is_small(judgement: Judgement) -> bool:
        errors = [error.max for error in (judgement.error, judgement.off_error) if error is not None]
        return limits.floor < max(errors, default=0.0) <= MAX_RETRY_CEILINGS * limits.ceiling

    return [judgement.verdict in verdicts and is_small(judgement) for judgement in judge(measurements, limits)]


def _judge(item: Measurement, rms_on: float, rms_off: float, limits: Thresholds) -> Judgement:
    fails, doubts = list(item.fails), list(item.doubts)
    error = target_error = off_error = effect = limit = None
    if item.on is not None:
        error, target_error = _check_errors("", item.on, rms_on, limits, fails, doubts)
        limit = min(limits.slack * target_error.max + limits.floor, limits.ceiling)
    if item.off is not None:
        off_error, _ = _check_errors(OFF, item.off, rms_off, limits, fails, doubts)
    if item.change is not None and error is not None:
        effect = item.change / rms_on
        _check_effect(effect, error.max, item.cosine, limits, fails, doubts)
    if item.tokens is not None:
        _check_generated_tokens(item.tokens, fails, doubts)
    verdict = Verdict.FAIL if fails else Verdict.INCONCLUSIVE if doubts else Verdict.PASS
    counts, target_counts = relative_counts(item.on, rms_on)
    return Judgement(
        verdict, (*fails, *doubts), error, target_error, off_error, effect, item.cosine, item.tokens, limit, counts,
        target_counts,
    )  # fmt: skip


def relative_counts(pair: ErrorPair | None, rms_reference: float) -> tuple[ErrorCounts | None, ErrorCounts | None]:
    """Returns the distributions of the errors of O and of T, in units of rms(R)."""
    counts = (None, None) if pair is None else (pair.actual_counts, pair.target_counts)
    of_o, of_t = (None if item is None else replace(item, unit=rms_reference) for item in counts)
    return of_o, of_t


def _check_errors(
    prefix: str, pair: ErrorPair, rms_reference: float, limits: Thresholds, fails: list[str], doubts: list[str]
) -> tuple[Deviation, Deviation]:
    """Checks point 2: O is as close to float64 as PyTorch is at this dtype.

    Args:
        prefix: Prefix of all messages.
        pair: Errors of O and of T.
        rms_reference: rms(R) over all cases.
        limits: Thresholds of the graph's dtype.
        fails: Reasons for FAIL are appended here.
        doubts: Reasons for INCONCLUSIVE are appended here.

    Returns:
        e(O) and e(T).
    """
    error, target_error = pair.actual.relative(rms_reference), pair.target.relative(rms_reference)
    bound = limits.slack * target_error.max + limits.floor
    if error.max > bound:
        fails.append(f"{prefix}e(O) = {error.max:.2e} is above {limits.slack:g} e(T) + {limits.floor:g} = {bound:.2e}")
    elif error.max > limits.ceiling:
        line = f"{prefix}e(O) = {error.max:.2e} is above the ceiling {limits.ceiling:g}"
        if target_error.max > limits.ceiling:
            doubts.append(f"{line}, but so is PyTorch itself at this dtype: e(T) = {target_error.max:.2e}")
        else:
            fails.append(line)
    return error, target_error


def _check_effect(
    effect: float, error: float, cosine: float | None, limits: Thresholds, fails: list[str], doubts: list[str]
) -> None:
    """Checks points 3 and 4: the adapter has a measurable effect, and O has the same effect as R."""
    if effect == 0 or effect < limits.effect * error:
        # The cosine is not checked here: where the changes are as small as the rounding, it carries no information.
        doubts.append(
            f"the adapter changes the output too little to tell: effect = {effect:.2e}, expected {limits.effect:g} "
            f"e(O) = {limits.effect * error:.2e} or more"
        )
    elif cosine is None:
        fails.append("the output is the same with the adapter and without it")
    elif cosine < limits.cosine:
        fails.append(f"the change is another one: cosine = {cosine:.6f}, below {limits.cosine:g}")


def _check_generated_tokens(tokens: TokenAgreement, fails: list[str], doubts: list[str]) -> None:
    """Checks that every token with a clear margin is the token that PyTorch chooses."""
    if wrong := tokens.clear - tokens.agreed:
        fails.append(f"another token than PyTorch's at {wrong} of {tokens.clear} with a clear margin")
    elif not tokens.clear:
        doubts.append(f"of {tokens.count} tokens none has a margin above twice the error")


def rms(pairs: Iterable[ErrorPair | None]) -> float:
    """Returns the root mean square of R over all positions of all cases; NaN if there are none."""
    present = [pair for pair in pairs if pair is not None]
    count = sum(pair.count for pair in present)
    return math.sqrt(sum(pair.squares for pair in present) / count) if count else math.nan
