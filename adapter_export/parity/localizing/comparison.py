"""Compares values of the graph with values of PyTorch: which agree, and which is the first that departs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.parity.cases import kept_positions
from adapter_export.parity.criteria.judge import THRESHOLDS
from adapter_export.parity.criteria.quantized import FLOOR, SLACK
from adapter_export.parity.localizing.graph_values import GraphValues
from adapter_export.parity.localizing.places import Place

Arrays = Mapping[str, np.ndarray]

# Numbers beyond this stand for "masked": models add the smallest number of their dtype to scores, or -inf.
_MASKED = 1e9
# One of many places may exceed the limit by chance, as T has random errors as well. None does so many times over.
_CLEAR = 10


@dataclass(frozen=True)
class Paired:
    """The values at one place.

    Attributes:
        place: The place.
        actual: O.
        expected: R. Of a module that returns several tensors, the one that is nearest to O.
        error: e(O); infinity for values of different shapes.
        limit: The largest error that agrees.
    """

    place: Place
    actual: np.ndarray
    expected: np.ndarray
    error: float
    limit: float

    @property
    def agrees(self) -> bool:
        """Whether the values agree."""
        return self.error <= self.limit

    @property
    def clear(self) -> bool:
        """Whether the values depart by far more than rounding can explain."""
        return self.error > _CLEAR * self.limit


class Comparison:
    """Compares values of one case, by the law of the judge for the dtype of the bundle."""

    def __init__(self, manifest: Manifest, inputs: Arrays) -> None:
        self._manifest, self._inputs = manifest, inputs
        self._rows = rows_of(inputs)

    def pair(
        self,
        place: Place,
        runs: Sequence[np.ndarray],
        expected: Sequence[np.ndarray],
        targets: Sequence[Sequence[np.ndarray]],
    ) -> Paired | None:
        """Pairs the values at a place.

        Args:
            place: The place.
            runs: O, one array for each step that the graph ran.
            expected: The tensors that may be R.
            targets: The same tensors of T, in one or more roundings.

        Returns:
            The nearest pair; None if no tensor has the shape of O.
        """
        pairs = []
        for number, reference in enumerate(expected):
            if (actual := joined(runs, reference.shape, self._rows)) is None or reference.dtype.kind != "f":
                continue
            limit = self.limit(max(self.error(target[number], reference) for target in targets))
            pairs.append(Paired(place, actual, reference, self.error(actual, reference), limit))
        return min(pairs, key=lambda pair: pair.error, default=None)

    def error(self, actual: np.ndarray, expected: np.ndarray) -> float:
        """Returns the error of a value, relative to rms(expected), over positions without padding.

        For quantized weights it is the mean error, otherwise the largest. Infinity if only one of them is finite.
        """
        kept = kept_positions(self._inputs, expected)
        if kept is not None:
            actual, expected = actual[kept], expected[kept]
        return distance(actual, expected, mean=self._manifest.quantize.used)

    def limit(self, target_error: float) -> float:
        """Returns the largest error that agrees, for the error of T at the same place."""
        if self._manifest.quantize.used:
            return SLACK * target_error + FLOOR
        thresholds = THRESHOLDS[self._manifest.dtype]
        return thresholds.slack * target_error + thresholds.floor


def rows_of(inputs: Arrays) -> int:
    """Returns the number of rows of a batch."""
    return len(next(iter(inputs.values())))


def distance(actual: np.ndarray, expected: np.ndarray, *, mean: bool = False) -> float:
    """Returns max|actual - expected| / rms(expected), or the mean.

    Values that stand for "masked" must do so in both arrays, and are not compared otherwise.
    """
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    masked, unmasked = (np.abs(value) < _MASKED for value in (actual, expected))
    if not np.array_equal(masked, unmasked):
        return math.inf
    actual, expected = actual[masked], expected[masked]
    if not expected.size:
        return 0.0
    difference = np.abs(actual - expected)
    scale = float(np.sqrt(np.square(expected).mean()))
    if not scale:
        return 0.0 if not difference.any() else math.inf
    return float(difference.mean() if mean else difference.max()) / scale


def joined(runs: Sequence[np.ndarray], shape: tuple[int, ...], rows: int) -> np.ndarray | None:
    """Returns one array of this shape from the arrays of all steps; None if they do not make one.

    The steps of a text are joined along the axis of the tokens. A cache has all tokens in the last step.

    Args:
        runs: One array for each step.
        shape: The shape of the whole.
        rows: Number of rows of the batch. The first axis of a value may have the tokens of all rows.
    """
    if len(runs) == 1:
        return runs[0].reshape(shape) if runs[0].size == math.prod(shape) else None
    if not runs or any(run.ndim != len(shape) for run in runs):
        return None
    if runs[-1].shape == shape:
        return runs[-1]
    for axis in range(1, len(shape)):
        others = {(*run.shape[:axis], *run.shape[axis + 1 :]) for run in runs}
        if others == {(*shape[:axis], *shape[axis + 1 :])} and sum(run.shape[axis] for run in runs) == shape[axis]:
            return np.concatenate(list(runs), axis=axis)
    if {run.shape[1:] for run in runs} == {shape[1:]} and all(len(run) % rows == 0 for run in runs):
        whole = np.concatenate([run.reshape(rows, len(run) // rows, *shape[1:]) for run in runs], axis=1)
        return whole.reshape(shape) if whole.size == math.prod(shape) else None
    return None


def first_departure(pairs: Sequence[Paired], graphs: Mapping[str, GraphValues]) -> Paired | None:
    """Returns the first pair that departs clearly; if there is none, the first that departs at all; None if all agree.

    If every value that is computed from it agrees, a value was paired with another one than its own: an error does not
    vanish. Such a pair is passed over.

    Args:
        pairs: The pairs in the order of computation.
        graphs: The graphs by file name.
    """
    agrees: dict[str, dict[str, bool]] = {}
    for pair in pairs:
        own = agrees.setdefault(pair.place.graph, {})
        own[pair.place.value] = own.get(pair.place.value, True) and pair.agrees
    departed = [pair for pair in pairs if not pair.agrees and _has_effect(pair, graphs, agrees)]
    return next((pair for pair in departed if pair.clear), next(iter(departed), None))


def _has_effect(pair: Paired, graphs: Mapping[str, GraphValues], agrees: Mapping[str, Mapping[str, bool]]) -> bool:
    """Returns whether a value that is computed from the one of a pair departs, or none is known.

    Args:
        pair: A pair that departs.
        graphs: The graphs by file name.
        agrees: By graph and value, whether the pairs of the value agree.
    """
    known = agrees[pair.place.graph]
    following = graphs[pair.place.graph].next_known(pair.place.value, known) - {pair.place.value}
    return pair.place.final or not following or not all(known.get(name, False) for name in following)
