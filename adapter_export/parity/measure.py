"""What one output of one case gave, in numbers. Pure numpy: arrays in, numbers out.

R PyTorch in float64 with the adapter unmerged, T PyTorch at the graph's dtype, O ONNX Runtime, for the same inputs.
`on` and `off`: with and without the adapter's body; its task head stays in both (see `docs/parity.md`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outputs:
    """R, T and O of one output, on or off; O is None where the graph cannot run like that. targets: T, and what else it
    might have been, had it rounded otherwise."""

    reference: np.ndarray
    targets: tuple[np.ndarray, ...]
    actual: np.ndarray | None


@dataclass(frozen=True)
class Evidence:
    """What one output of one case gave.

    off: None where there is no adapter to speak of. kept: which leading positions (B, T) count; None means all.
    dtype: of the output, as the graph promises it. classes: the last axis holds logits, whose choice is compared
    as well.
    """

    on: Outputs
    off: Outputs | None
    kept: np.ndarray | None
    dtype: str
    classes: bool = False


@dataclass(frozen=True)
class Error:
    """Differences from R: the largest, the 99.9th percentile, and the mean."""

    max: float
    p999: float
    mean: float

    def relative(self, rms: float) -> Error:
        return Error(self.max / rms, self.p999 / rms, self.mean / rms)


@dataclass(frozen=True)
class Choice:
    """How far O chooses among classes as R does, over positions: the mean of KL(softmax R || softmax O), how many
    positions there are, how many of them are clear in R (see `MARGIN`), at how many of those the classes agree, and at
    how many they do not though every T chooses as R does.
    """

    divergence: float
    positions: int
    clear: int
    agreed: int
    lost: int


@dataclass(frozen=True)
class Tokens:
    """Of tokens that were generated: how many there are, how many are clear (see `greedy`), and at how many of those
    O chose as R does."""

    count: int
    clear: int
    agreed: int


@dataclass(frozen=True)
class Fit:
    """How far O and T are from R, in R's units; of several T the one furthest away. squares, count: sum of R^2 and
    number of values, for its rms."""

    actual: Error
    target: Error
    squares: float
    count: int
    choice: Choice | None = None


@dataclass(frozen=True)
class Change:
    """Sums over positions of what the adapter changed: (O_on - O_off)(R_on - R_off), the squares of each, and those of
    O_on - R_on. Sums of several cases add up."""

    product: float
    actual: float
    expected: float
    error: float

    def __mul__(self, weight: float) -> Change:
        return Change(*(weight * value for value in (self.product, self.actual, self.expected, self.error)))

    def __add__(self, other: Change) -> Change:
        return Change(
            self.product + other.product,
            self.actual + other.actual,
            self.expected + other.expected,
            self.error + other.error,
        )

    @property
    def cosine(self) -> float | None:
        """Of both changes; None where one of them is zero."""
        lengths = math.sqrt(self.actual * self.expected)
        return self.product / lengths if lengths > 0 else None

    @property
    def effect(self) -> float:
        """How large the change is beside the error, by root mean squares."""
        return math.sqrt(self.expected / self.error) if self.error > 0 else math.inf


@dataclass(frozen=True)
class Measure:
    """fails, doubts: what is wrong with the form of the outputs, or with what they are compared with; then there are no
    numbers. change: max|R_on - R_off|. cosine: of O_on - O_off and R_on - R_off; None where one of them is zero.
    """

    fails: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    on: Fit | None = None
    off: Fit | None = None
    change: float | None = None
    cosine: float | None = None
    change_sums: Change | None = None
    tokens: Tokens | None = None


# Between the two largest logits, from which on a choice is clear: it is then 2.7 times as likely as the next.
MARGIN = 1.0
# Before what concerns the run without the adapter.
OFF = "without the adapter: "


def measure(evidence: Evidence) -> Measure:
    """Check the form of the outputs and, where nothing is wrong with it, measure them.

    For a graph without an off state T_off stands in for O_off: it has the rounding errors of the graph's dtype too,
    which in half precision are mostly common to both states and cancel.
    """
    on, off = (_select(outputs, evidence.kept) for outputs in (evidence.on, evidence.off))
    assert on is not None
    assert on.actual is not None
    fails, doubts = _form("", evidence.on, on, evidence.dtype)
    if off is not None and evidence.off is not None and off.actual is not None:
        more = _form(OFF, evidence.off, off, evidence.dtype)
        fails, doubts = fails + more[0], doubts + more[1]
    if fails or doubts:
        return Measure(tuple(fails), tuple(doubts))
    if off is None:
        return Measure(on=_fit(on, evidence.classes))
    expected = on.reference - off.reference
    changed = on.actual - (off.targets[0] if off.actual is None else off.actual)
    sums = Change(
        float(np.vdot(changed, expected)),
        float(np.vdot(changed, changed)),
        float(np.vdot(expected, expected)),
        float(np.square(on.actual - on.reference).sum()),
    )
    return Measure(
        on=_fit(on, evidence.classes),
        off=None if off.actual is None else _fit(off, evidence.classes),
        change=float(np.abs(expected).max()),
        cosine=sums.cosine,
        change_sums=sums,
    )


def _select(outputs: Outputs | None, kept: np.ndarray | None) -> Outputs | None:
    """The positions that count, as float64; O as it is where its shape is wrong."""
    if outputs is None:
        return None
    shape = outputs.reference.shape

    def select(array: np.ndarray) -> np.ndarray:
        whole = kept is None or array.shape != shape
        selected: np.ndarray = (array if whole else array[kept]).astype(np.float64)
        return selected

    actual = None if outputs.actual is None else select(outputs.actual)
    return Outputs(select(outputs.reference), tuple(map(select, outputs.targets)), actual)


def _form(prefix: str, whole: Outputs, kept: Outputs, dtype: str) -> tuple[list[str], list[str]]:
    """Shape, dtype, finite, neither constant nor all zero: what fails, and what makes the comparison worthless."""
    reference, actual = kept.reference, kept.actual
    assert whole.actual is not None
    assert actual is not None
    if whole.actual.shape != whole.reference.shape:
        found = f"expected {list(whole.reference.shape)}, found {list(whole.actual.shape)}"
        return [f"{prefix}shape: {found}"], []
    fails, doubts = [], []
    if whole.actual.dtype.name != dtype:
        fails.append(f"{prefix}dtype: expected {dtype}, found {whole.actual.dtype.name}")
    if not actual.size:
        return fails, [f"{prefix}the output is empty: nothing to compare"]
    if not all(np.isfinite(array).all() for array in (reference, *kept.targets)):
        doubts.append(f"{prefix}PyTorch itself gives NaN or infinity: nothing to compare with")
    elif _constant(reference):
        doubts.append(f"{prefix}the model's own output is constant: it would not show a mistake")
    if not np.isfinite(actual).all():
        fails.append(f"{prefix}{np.count_nonzero(~np.isfinite(actual))} of {actual.size} values are not finite")
    elif _constant(actual) and not doubts:
        fails.append(f"{prefix}the output is {'all zero' if not actual.any() else f'constant: {actual.flat[0]:.4g}'}")
    return fails, doubts


def _constant(values: np.ndarray) -> bool:
    """Whether all values are equal; of a single one, whether it is zero."""
    return bool(np.ptp(values) == 0 and (values.size > 1 or not values.any()))


def _fit(outputs: Outputs, classes: bool) -> Fit:
    assert outputs.actual is not None
    reference = outputs.reference
    return Fit(
        _error(outputs.actual - reference),
        max((_error(target - reference) for target in outputs.targets), key=lambda error: error.max),
        float(np.square(reference).sum()),
        reference.size,
        choice(reference, outputs.targets, outputs.actual) if classes and reference.shape[-1] > 1 else None,
    )


def choice(reference: np.ndarray, targets: Sequence[np.ndarray], actual: np.ndarray) -> Choice:
    """Of logits (..., n), n > 1, in float64."""
    expected, found = (array.reshape(-1, array.shape[-1]) for array in (reference, actual))
    ours, theirs = _log_softmax(expected), _log_softmax(found)
    second, first = np.partition(expected, -2, axis=-1)[:, -2:].T
    clear = first - second >= MARGIN
    best = expected.argmax(-1)
    agreed = clear & (best == found.argmax(-1))
    sure = np.all([best == target.reshape(expected.shape).argmax(-1) for target in targets], axis=0)
    divergence = float((np.exp(ours) * (ours - theirs)).sum(-1).mean())
    return Choice(divergence, len(expected), int(clear.sum()), int(agreed.sum()), int((clear & ~agreed & sure).sum()))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _error(difference: np.ndarray) -> Error:
    size = np.abs(difference)
    return Error(float(size.max()), float(np.quantile(size, 0.999)), float(size.mean()))
