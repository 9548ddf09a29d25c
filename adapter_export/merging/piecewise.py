"""A method's merge rule on pieces of a stored weight, so that large matrices are not in memory whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from adapter_export.errors import CannotMerge
from adapter_export.merging.rounding import NAMES, finite, rounded, widened
from adapter_export.methods.contract import IN, OUT, Operator, SiteAdapter
from adapter_export.sites import Features, Port

# Values worked on at a time: 512 KiB as float64. A piece and what is made of it stay in a core's cache, and in memory
# that the allocator keeps: with four times as many, half of the CPU time goes into memory given back and taken again.
_PIECE = 1 << 16
# Of the layer that `separable` tries a rule on, and relative difference beyond which two results are not the same.
_TRIAL_OUTPUTS, _TRIAL_INPUTS, _TRIAL_FREE = 4, 6, 2
_ROUNDING = 1e-12


@dataclass(frozen=True)
class StoredLayer:
    """A linear layer or a convolution as it is stored: (out, in), transposed (in, out), or (out, in, *spatial)."""

    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def outputs(self) -> int:
        return self.shape[1] if self.transposed else self.shape[0]

    @property
    def inputs(self) -> int:
        return self.shape[0] if self.transposed else self.shape[1]

    @property
    def spatial(self) -> int:
        return math.prod(self.shape[2:])


@dataclass(frozen=True)
class MergeRule:
    """One adapter's site_adapter at a port of a layer."""

    port: Port
    site_adapter: SiteAdapter

    def merge(
        self, weight: np.ndarray, bias: np.ndarray | None, outs: slice, ins: slice
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The operator's rule on the outputs `outs` and inputs `ins` of a layer.

        Axes of the operator's tensors are cut by their names, so that the rule sees a smaller layer. Raises ValueError
        where the rule gives an array of another shape than it got.
        """
        operator = self.site_adapter.operator
        cuts = {
            IN: ins if self.port in (Port.INPUT, Port.BRANCH) else outs,
            OUT: ins if self.port is Port.INPUT else outs,
        }
        tensors = {
            name: self.site_adapter.tensors[name][tuple(cuts.get(str(dim), slice(None)) for dim in spec.dims)]
            for name, spec in operator.specs.items()
        }
        merged, new_bias = operator.merge(self.port, weight, bias, tensors)
        if merged.shape != weight.shape or (bias is not None and (new_bias is None or new_bias.shape != bias.shape)):
            raise ValueError(
                f"{operator.op_type}.merge: expected a weight {weight.shape} and a bias of the layer's own size, found "
                f"{merged.shape} and {None if new_bias is None else new_bias.shape}"
            )
        return merged, new_bias


@dataclass(frozen=True)
class TensorChange:
    """One stored tensor, a layer's weight or bias, and what is folded into it, in order.

    W' = round(rule_n(... rule_1(float64(W)))) in W's own dtype: several adapters are rounded once.
    """

    name: str
    dtype: str
    layer: StoredLayer
    rules: tuple[MergeRule, ...]
    bias: bool = False

    def pieces(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of consecutive pieces of the tensor, seen as a matrix (rows of a bias have one column). One
        piece for rules that need the whole matrix."""
        rows, columns = (self.layer.outputs, 1) if self.bias else (self.layer.shape[0], self._columns)
        if not all(separable(rule.site_adapter.operator, rule.port) for rule in self.rules):
            yield slice(0, rows), slice(0, columns)
            return
        # A row that is too long itself is cut between inputs.
        width = min(columns, max(1, _PIECE // max(1, self.layer.spatial)) * self.layer.spatial)
        height = max(1, _PIECE // max(1, self.layer.inputs if self.bias else columns))
        for row in range(0, rows, height):
            for column in range(0, columns, max(1, width)):
                yield slice(row, min(rows, row + height)), slice(column, min(columns, column + width))

    def apply(self, stored: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """The piece `stored` (of any shape, as `STORED[dtype]`) with everything folded in. Raises CannotMerge for a
        result that is not finite in the dtype."""
        values = widened(stored, self.dtype)
        for rule in self.rules:
            values = self._bias(rule, values, rows) if self.bias else self._weight(rule, values, rows, columns)
        result = rounded(np.ascontiguousarray(values), self.dtype)
        if not finite(result, self.dtype):
            raise CannotMerge(f"tensor {self.name}: is not finite in {NAMES[self.dtype]} after the merge")
        return result

    @property
    def _columns(self) -> int:
        return self.layer.shape[1] * self.layer.spatial

    def _bias(self, rule: MergeRule, values: np.ndarray, rows: slice) -> np.ndarray:
        # Of any values: `changes_bias` made sure that the rule does not look. Not zeros, by which it may divide.
        weight = np.ones((len(values), self.layer.inputs))
        _, bias = rule.merge(weight, values.reshape(-1), rows, slice(0, self.layer.inputs))
        assert bias is not None
        return bias

    def _weight(self, rule: MergeRule, values: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        height, width, spatial = rows.stop - rows.start, columns.stop - columns.start, self.layer.spatial
        if self.layer.transposed:
            weight, _ = rule.merge(values.reshape(height, width).T, None, columns, rows)
            transposed: np.ndarray = weight.T
            return transposed
        ins = slice(columns.start // spatial, columns.stop // spatial)
        if spatial == 1 or rule.port is not Port.INPUT:
            return rule.merge(values.reshape(height, width), None, rows, ins)[0]
        # Every point of the kernel is a linear layer of its own.
        points = values.reshape(height, width // spatial, spatial).transpose(0, 2, 1)
        weight, _ = rule.merge(points.reshape(height * spatial, -1), None, slice(0, self.layer.outputs), ins)
        whole: np.ndarray = weight.reshape(height, spatial, -1).transpose(0, 2, 1)
        return whole


def changes_bias(rule: MergeRule, layer: StoredLayer, present: bool) -> bool:
    """Whether the rule changes the layer's bias, found by asking it about one input of all outputs. present:
    whether the layer has one.

    Raises CannotMerge where the rule needs a bias and there is none, or computes it from the weight.
    """
    bias = np.zeros(layer.outputs) if present else None
    _, changed = rule.merge(np.ones((layer.outputs, 1)), bias, slice(0, layer.outputs), slice(0, 1))
    if changed is bias:
        return False
    if bias is None:
        raise CannotMerge("the layer has no bias to fold the adapter's into; export with --mode swappable instead")
    if not _bias_without_weight(rule.site_adapter.operator, rule.port):
        raise CannotMerge(
            "the new bias depends on the layer's weight, which `merge` does not have in memory whole; "
            "`onnx --mode merged` has"
        )
    return True


@cache
def separable(operator: Operator, port: Port) -> bool:
    """Whether the rule on parts of a layer gives the same parts of the whole result. Tried on a small random layer."""
    rule, weight, _ = _trial(operator, port)
    outs, ins = slice(0, _TRIAL_OUTPUTS), slice(0, _TRIAL_INPUTS)
    whole, _ = rule.merge(weight, None, outs, ins)
    for half in (slice(0, _TRIAL_OUTPUTS // 2), slice(_TRIAL_OUTPUTS // 2, _TRIAL_OUTPUTS)):
        for third in (slice(0, _TRIAL_INPUTS // 3), slice(_TRIAL_INPUTS // 3, _TRIAL_INPUTS)):
            part, _ = rule.merge(weight[half, third], None, half, third)
            if not np.allclose(part, whole[half, third], _ROUNDING, _ROUNDING):
                return False
    return True


@cache
def _bias_without_weight(operator: Operator, port: Port) -> bool:
    rule, weight, bias = _trial(operator, port)
    outs, ins = slice(0, _TRIAL_OUTPUTS), slice(0, _TRIAL_INPUTS)
    first, second = (rule.merge(values, bias, outs, ins)[1] for values in (weight, -weight))
    return np.array_equal(first, second)  # type: ignore[arg-type]


def _trial(operator: Operator, port: Port) -> tuple[MergeRule, np.ndarray, np.ndarray]:
    """The operator with random tensors, and a random layer's weight and bias."""
    rng = np.random.default_rng(0)
    features = {
        Port.INPUT: Features(_TRIAL_INPUTS, _TRIAL_INPUTS),
        Port.BRANCH: Features(_TRIAL_INPUTS, _TRIAL_OUTPUTS),
    }.get(port, Features(_TRIAL_OUTPUTS, _TRIAL_OUTPUTS))
    tensors = {name: rng.standard_normal(spec.shape(features, _TRIAL_FREE)) for name, spec in operator.specs.items()}
    weight, bias = rng.standard_normal((_TRIAL_OUTPUTS, _TRIAL_INPUTS)), rng.standard_normal(_TRIAL_OUTPUTS)
    return MergeRule(port, SiteAdapter(operator, tensors)), weight, bias
