"""Measures one output of one case: the arrays of R, T and O go in, numbers come out. Pure numpy.

R, T, O, on and off are explained in `adapter_export.parity`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapter_export.parity.criteria.error_counts import ErrorCounts, count_errors

# A position is clear where the largest logit exceeds the second largest by at least this much. The class of the largest
# logit is then at least 2.7 times as likely as the next one.
MARGIN = 1.0
# Prefix of messages about the run without the adapter.
OFF = "without the adapter: "


@dataclass(frozen=True)
class OutputArrays:
    """The arrays of one output in one state, on or off. All have the same shape if the graph is right.

    Attributes:
        reference: R.
        targets: T as PyTorch rounds it, followed by T in other roundings, if any.
        actual: O; None where the graph cannot run in this state.
    """

    reference: np.ndarray
    targets: tuple[np.ndarray, ...]
    actual: np.ndarray | None


@dataclass(frozen=True)
class OutputSet:
    """Arrays to compare for one output of one case.

    Attributes:
        on: Arrays with the adapter.
        off: Arrays without the adapter; None for the base model, which has no adapter to switch off.
        kept: Boolean mask [batch, tokens] of the positions to compare; None for all positions.
        dtype: Name of the dtype that the manifest declares for the output.
        classes: Whether the last axis holds logits. If so, the predicted classes are compared as well.
    """

    on: OutputArrays
    off: OutputArrays | None
    kept: np.ndarray | None
    dtype: str
    classes: bool = False


@dataclass(frozen=True)
class Deviation:
    """Absolute differences from R: the largest, the 99.9th percentile, and the mean."""

    max: float
    p999: float
    mean: float

    def relative(self, rms: float) -> Deviation:
        """Returns the errors divided by `rms`."""
        return Deviation(self.max / rms, self.p999 / rms, self.mean / rms)


@dataclass(frozen=True)
class ClassAgreement:
    """How far O predicts the same classes as R, over the positions of one output.

    Attributes:
        divergence: Mean of KL(softmax R || softmax O), in nats.
        positions: Number of positions.
        clear: Number of positions that are clear in R, see `MARGIN`.
        agreed: Number of clear positions at which O and R predict the same class.
        wrong: Number of clear positions at which O predicts another class than R, although every T predicts that of R.
    """

    divergence: float
    positions: int
    clear: int
    agreed: int
    wrong: int


@dataclass(frozen=True)
class TokenDifference:
    """A generated token that is not the largest logit of R.

    Attributes:
        row: Number of its row in the batch, from 0.
        step: How many tokens were generated before it in its row.
        written: The token that was generated.
        expected: The token with the largest logit of R.
        margin: How far the two largest logits of R are apart.
        clear: Whether this margin is clear, see `greedy`. If it is not, rounding may choose either token.
    """

    row: int
    step: int
    written: int
    expected: int
    margin: float
    clear: bool


@dataclass(frozen=True)
class TokenAgreement:
    """Counts of generated tokens.

    Attributes:
        count: Number of tokens.
        clear: Number of tokens with a clear margin in R, see `greedy`.
        agreed: Number of clear tokens that are the largest logit of R as well.
        differing: All tokens that are not the largest logit of R.
    """

    count: int
    clear: int
    agreed: int
    differing: tuple[TokenDifference, ...] = ()


@dataclass(frozen=True)
class ErrorPair:
    """Errors of one output in one state, in units of the output.

    Attributes:
        actual: Error of ONNX Runtime against float64.
        target: Error of PyTorch at the graph's dtype against float64; of several roundings the one with the largest
            maximum.
        squares: Sum of the squares of R, for its root mean square.
        count: Number of values of R.
        class_agreement: Predicted classes of O and R; None for outputs that are not compared as classes.
        actual_counts: Distribution of the error of ONNX Runtime; None where it is not shown.
        target_counts: Distribution of the error of PyTorch; None where it is not shown.
    """

    actual: Deviation
    target: Deviation
    squares: float
    count: int
    class_agreement: ClassAgreement | None = None
    actual_counts: ErrorCounts | None = None
    target_counts: ErrorCounts | None = None


@dataclass(frozen=True)
class EffectSums:
    """Sums over positions that describe the effect of an adapter. Those of several cases can be weighted and added.

    Attributes:
        product: Sum of (O_on - O_off)(R_on - R_off).
        actual: Sum of the squares of O_on - O_off.
        expected: Sum of the squares of R_on - R_off.
        error: Sum of the squares of O_on - R_on.
    """

    product: float
    actual: float
    expected: float
    error: float

    def __mul__(self, weight: float) -> EffectSums:
        return EffectSums(*(weight * value for value in (self.product, self.actual, self.expected, self.error)))

    def __add__(self, other: EffectSums) -> EffectSums:
        return EffectSums(
            self.product + other.product,
            self.actual + other.actual,
            self.expected + other.expected,
            self.error + other.error,
        )

    @property
    def cosine(self) -> float | None:
        """Cosine between O_on - O_off and R_on - R_off; None where one of them is zero."""
        lengths = math.sqrt(self.actual * self.expected)
        return self.product / lengths if lengths > 0 else None

    @property
    def effect(self) -> float:
        """rms(R_on - R_off) / rms(O_on - R_on): the size of the effect relative to the error."""
        return math.sqrt(self.expected / self.error) if self.error > 0 else math.inf


@dataclass(frozen=True)
class Measurement:
    """The numbers of one output of one case.

    There are no numbers where `fails` or `doubts` contains an entry about the form of the arrays.

    Attributes:
        fails: What is wrong with the output of ONNX Runtime.
        doubts: Why the PyTorch reference cannot be compared with.
        on: Errors with the adapter.
        off: Errors without the adapter; None where O has no off state.
        change: max|R_on - R_off|, in units of the output.
        cosine: Cosine between O_on - O_off and R_on - R_off; None where one of them is zero.
        effect_sums: Sums from which change and cosine over several cases are computed.
        tokens: Counts of generated tokens; None for cases without generation.
    """

    fails: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    on: ErrorPair | None = None
    off: ErrorPair | None = None
    change: float | None = None
    cosine: float | None = None
    effect_sums: EffectSums | None = None
    tokens: TokenAgreement | None = None


def measure(output_set: OutputSet) -> Measurement:
    """Checks the form of the arrays and, if it is right, measures their differences.

    For a graph without an off state, T_off is used in place of O_off. It has the rounding errors of the graph's dtype
    too. In half precision they are mostly common to both states, and cancel in the difference of the states.
    """
    on, off = (_select(outputs, output_set.kept) for outputs in (output_set.on, output_set.off))
    assert on is not None
    assert on.actual is not None
    fails, doubts = _check_form("", output_set.on, on, output_set.dtype)
    if off is not None and output_set.off is not None and off.actual is not None:
        off_fails, off_doubts = _check_form(OFF, output_set.off, off, output_set.dtype)
        fails, doubts = fails + off_fails, doubts + off_doubts
    if fails or doubts:
        return Measurement(tuple(fails), tuple(doubts))
    if off is None:
        return Measurement(on=_error_pair(on, output_set.classes, counted=True))
    expected = on.reference - off.reference
    actual = on.actual - (off.targets[0] if off.actual is None else off.actual)
    sums = EffectSums(
        float(np.vdot(actual, expected)),
        float(np.vdot(actual, actual)),
        float(np.vdot(expected, expected)),
        float(np.square(on.actual - on.reference).sum()),
    )
    return Measurement(
        on=_error_pair(on, output_set.classes, counted=True),
        off=None if off.actual is None else _error_pair(off, output_set.classes, counted=False),
        change=float(np.abs(expected).max()),
        cosine=sums.cosine,
        effect_sums=sums,
    )


def _select(outputs: OutputArrays | None, kept: np.ndarray | None) -> OutputArrays | None:
    """Returns the kept positions as float64. All positions of O are returned where its shape is wrong."""
    if outputs is None:
        return None
    shape = outputs.reference.shape

    def select(array: np.ndarray) -> np.ndarray:
        keep_all = kept is None or array.shape != shape
        selected: np.ndarray = (array if keep_all else array[kept]).astype(np.float64)
        return selected

    actual = None if outputs.actual is None else select(outputs.actual)
    return OutputArrays(select(outputs.reference), tuple(map(select, outputs.targets)), actual)


def _check_form(prefix: str, outputs: OutputArrays, selected: OutputArrays, dtype: str) -> tuple[list[str], list[str]]:
    """Checks shape and dtype, and that the values are finite and neither constant nor all zero.

    Args:
        prefix: Prefix of all messages.
        outputs: The arrays with all positions, in their own dtypes.
        selected: The kept positions of the same arrays, float64.
        dtype: Expected name of the dtype of O.

    Returns:
        What is wrong with O, and why R or T cannot be compared with.
    """
    reference, actual = selected.reference, selected.actual
    assert outputs.actual is not None
    assert actual is not None
    if outputs.actual.shape != outputs.reference.shape:
        shapes = f"expected {list(outputs.reference.shape)}, found {list(outputs.actual.shape)}"
        return [f"{prefix}shape: {shapes}"], []
    fails, doubts = [], []
    if outputs.actual.dtype.name != dtype:
        fails.append(f"{prefix}dtype: expected {dtype}, found {outputs.actual.dtype.name}")
    if not actual.size:
        return fails, [f"{prefix}the output is empty: nothing to compare"]
    if not all(np.isfinite(array).all() for array in (reference, *selected.targets)):
        doubts.append(f"{prefix}PyTorch itself gives NaN or infinity: nothing to compare with")
    elif _is_constant(reference):
        doubts.append(f"{prefix}the model's own output is constant: it would not show a mistake")
    if not np.isfinite(actual).all():
        fails.append(f"{prefix}{np.count_nonzero(~np.isfinite(actual))} of {actual.size} values are not finite")
    elif _is_constant(actual) and not doubts:
        fails.append(f"{prefix}the output is {'all zero' if not actual.any() else f'constant: {actual.flat[0]:.4g}'}")
    return fails, doubts


def _is_constant(values: np.ndarray) -> bool:
    """Returns whether all values are equal; for a single value, whether it is zero."""
    return bool(np.ptp(values) == 0 and (values.size > 1 or not values.any()))


def _error_pair(outputs: OutputArrays, classes: bool, *, counted: bool) -> ErrorPair:
    assert outputs.actual is not None
    reference = outputs.reference
    agreement = None
    if classes and reference.shape[-1] > 1:
        agreement = class_agreement(reference, outputs.targets, outputs.actual)
    actual = outputs.actual - reference
    target = max((target - reference for target in outputs.targets), key=lambda error: float(np.abs(error).max()))
    return ErrorPair(
        _error(actual),
        _error(target),
        float(np.square(reference).sum()),
        reference.size,
        agreement,
        count_errors(actual) if counted else None,
        count_errors(target) if counted else None,
    )


def class_agreement(reference: np.ndarray, targets: Sequence[np.ndarray], actual: np.ndarray) -> ClassAgreement:
    """Compares the classes that logits predict.

    Args:
        reference: R, float64 [..., classes], with at least two classes.
        targets: T in one or more roundings, each of the shape of R.
        actual: O, of the shape of R.
    """
    reference, actual = (array.reshape(-1, array.shape[-1]) for array in (reference, actual))
    log_expected, log_actual = _log_softmax(reference), _log_softmax(actual)
    second, first = np.partition(reference, -2, axis=-1)[:, -2:].T
    clear = first - second >= MARGIN
    expected = reference.argmax(-1)
    agreed = clear & (expected == actual.argmax(-1))
    kept_by_targets = np.all([expected == target.reshape(reference.shape).argmax(-1) for target in targets], axis=0)
    divergence = float((np.exp(log_expected) * (log_expected - log_actual)).sum(-1).mean())
    return ClassAgreement(
        divergence,
        positions=len(reference),
        clear=int(clear.sum()),
        agreed=int(agreed.sum()),
        wrong=int((clear & ~agreed & kept_by_targets).sum()),
    )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _error(difference: np.ndarray) -> Deviation:
    size = np.abs(difference)
    return Deviation(float(size.max()), float(np.quantile(size, 0.999)), float(size.mean()))
