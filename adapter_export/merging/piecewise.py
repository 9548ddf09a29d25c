"""Applies a method's merge rule to pieces of a stored weight, so that large matrices are never in memory as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from adapter_export.errors import CannotMerge
from adapter_export.merging.rounding import NAMES, finite, rounded, widened
from adapter_export.methods.contract import IN, OUT, Operator, SiteAdapter
from adapter_export.sites import Features, Port

# Values of a piece: 512 KiB as float64. A piece and its result stay in the cache of a core, and in memory that the
# allocator keeps. With four times as many values, half of the CPU time goes into returning and requesting memory.
_PIECE = 1 << 16
# Sizes of the layer on which `separable` tries a rule, and the largest relative difference of two equal results.
_TRIAL_OUTPUTS, _TRIAL_INPUTS, _TRIAL_FREE = 4, 6, 2
_ROUNDING = 1e-12


@dataclass(frozen=True)
class StoredLayer:
    """A layer as it is stored: (out, in), transposed (in, out), or a convolution (out, in, *kernel).

    An embedding (rows, features) is a transposed linear layer, see `ModelInfo.features`.
    """

    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def outputs(self) -> int:
        return self.shape[1] if self.transposed else self.shape[0]

    @property
    def inputs(self) -> int:
        return self.shape[0] if self.transposed else self.shape[1]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of the kernel; () if the layer is no convolution."""
        return self.shape[2:]

    @property
    def spatial(self) -> int:
        """Number of points of the kernel."""
        return math.prod(self.kernel)


@dataclass(frozen=True)
class MergeRule:
    """The merge rule of one operator at a port of a layer, with its tensors.

    Attributes:
        port: The port.
        site_adapter: The operator and its tensors.
    """

    port: Port
    site_adapter: SiteAdapter

    def merge(
        self, weight: np.ndarray, bias: np.ndarray | None, outs: slice, ins: slice
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Applies the rule to a part of a layer.

        The operator's tensors are cut along their named axes, so that the rule works on a smaller layer.

        Args:
            weight: The part of the weight, float64 (outs, ins, *kernel).
            bias: The part of the bias, float64 (outs,), or None.
            outs: Which outputs of the layer the part has.
            ins: Which inputs of the layer the part has.

        Returns:
            The new weight, and the new bias or None.

        Raises:
            ValueError: The rule returns an array of another shape.
        """
        operator = self.site_adapter.operator
        cuts = {
            IN: ins if self.port in (Port.INPUT, Port.BRANCH) else outs,
            OUT: ins if self.port is Port.INPUT else outs,
        }
        # Cut before they become float64: a matrix of a large table has many pieces.
        cut = {
            name: self.site_adapter.tensors[name][tuple(cuts.get(str(dim), slice(None)) for dim in spec.dims)]
            for name, spec in operator.specs.items()
        }
        merged, new_bias = operator.merge(self.port, weight, bias, replace(self.site_adapter, tensors=cut).exact)
        if merged.shape != weight.shape or (bias is not None and (new_bias is None or new_bias.shape != bias.shape)):
            raise ValueError(
                f"{operator.op_type}.merge: expected a weight {weight.shape} and a bias of the layer's own size, found "
                f"{merged.shape} and {None if new_bias is None else new_bias.shape}"
            )
        return merged, new_bias


@dataclass(frozen=True)
class TensorChange:
    """One stored tensor, a layer's weight or bias, and the rules to apply to it, in order.

    W' = round(rule_n(... rule_1(float64(W)))) in the dtype of W. So the result of several adapters is rounded once.

    Attributes:
        name: Name of the tensor on disk.
        dtype: Its type, by its safetensors name.
        layer: The layer.
        rules: The rules.
        bias: Whether the tensor is the bias.
    """

    name: str
    dtype: str
    layer: StoredLayer
    rules: tuple[MergeRule, ...]
    bias: bool = False

    def pieces(self) -> Iterator[tuple[slice, slice]]:
        """Yields rows and columns of consecutive pieces of the tensor as a matrix. A bias is a matrix of one column.

        If a rule needs the whole matrix, there is one piece.
        """
        rows, columns = (self.layer.outputs, 1) if self.bias else (self.layer.shape[0], self._columns)
        kernel = self.layer.kernel
        if not all(separable(rule.site_adapter.operator, rule.port, kernel) for rule in self.rules):
            yield slice(0, rows), slice(0, columns)
            return
        # A row that is longer than a piece is cut between inputs.
        width = min(columns, max(1, _PIECE // max(1, self.layer.spatial)) * self.layer.spatial)
        height = max(1, _PIECE // max(1, self.layer.inputs if self.bias else columns))
        for row in range(0, rows, height):
            for column in range(0, columns, max(1, width)):
                yield slice(row, min(rows, row + height)), slice(column, min(columns, column + width))

    def apply(self, stored: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """Applies all rules to a piece of the tensor.

        Args:
            stored: The piece, of any shape, as `STORED[dtype]`.
            rows: Which rows the piece has.
            columns: Which columns the piece has.

        Returns:
            The new piece, as `STORED[dtype]`.

        Raises:
            CannotMerge: The result is not finite in the dtype.
        """
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
        # Any values will do, as `changes_bias` checked that the rule does not use them; but not zeros: it may divide by
        # them.
        weight = np.ones((len(values), self.layer.inputs, *self.layer.kernel))
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
        return rule.merge(values.reshape(height, width // spatial, *self.layer.kernel), None, rows, ins)[0]


def changes_bias(rule: MergeRule, layer: StoredLayer, present: bool) -> bool:
    """Returns whether the rule changes the layer's bias. Found by applying it to one input of all outputs.

    Args:
        rule: The rule.
        layer: The layer.
        present: Whether the layer has a bias.

    Raises:
        CannotMerge: The rule needs a bias and the layer has none, or the new bias depends on the weight.
    """
    bias = np.zeros(layer.outputs) if present else None
    weight = np.ones((layer.outputs, 1, *layer.kernel))
    _, changed = rule.merge(weight, bias, slice(0, layer.outputs), slice(0, 1))
    if changed is bias:
        return False
    if bias is None:
        raise CannotMerge("the layer has no bias to fold the adapter's into; export with --mode swappable instead")
    if not _bias_without_weight(rule.site_adapter.operator, rule.port, layer.kernel):
        raise CannotMerge(
            "the new bias depends on the layer's weight, which `merge` does not have in memory whole; "
            "`onnx --mode merged` has"
        )
    return True


@cache
def separable(operator: Operator, port: Port, kernel: tuple[int, ...] = ()) -> bool:
    """Returns whether the rule on parts of a layer gives the same parts of the whole result. Tried on a small
    random layer.
    """
    rule, weight, _ = _trial(operator, port, kernel)
    outs, ins = slice(0, _TRIAL_OUTPUTS), slice(0, _TRIAL_INPUTS)
    whole, _ = rule.merge(weight, None, outs, ins)
    for half in (slice(0, _TRIAL_OUTPUTS // 2), slice(_TRIAL_OUTPUTS // 2, _TRIAL_OUTPUTS)):
        for third in (slice(0, _TRIAL_INPUTS // 3), slice(_TRIAL_INPUTS // 3, _TRIAL_INPUTS)):
            part, _ = rule.merge(weight[half, third], None, half, third)
            if not np.allclose(part, whole[half, third], _ROUNDING, _ROUNDING):
                return False
    return True


@cache
def _bias_without_weight(operator: Operator, port: Port, kernel: tuple[int, ...]) -> bool:
    rule, weight, bias = _trial(operator, port, kernel)
    outs, ins = slice(0, _TRIAL_OUTPUTS), slice(0, _TRIAL_INPUTS)
    first, second = (rule.merge(values, bias, outs, ins)[1] for values in (weight, -weight))
    return np.array_equal(first, second)  # type: ignore[arg-type]


def _trial(operator: Operator, port: Port, kernel: tuple[int, ...]) -> tuple[MergeRule, np.ndarray, np.ndarray]:
    """Returns the operator with random tensors, and the weight and bias of a random layer with this kernel."""
    rng = np.random.default_rng(0)
    features = {
        Port.INPUT: Features(_TRIAL_INPUTS, _TRIAL_INPUTS),
        Port.BRANCH: Features(_TRIAL_INPUTS, _TRIAL_OUTPUTS),
    }.get(port, Features(_TRIAL_OUTPUTS, _TRIAL_OUTPUTS))
    tensors = {name: rng.standard_normal(spec.shape(features, _TRIAL_FREE)) for name, spec in operator.specs.items()}
    weight = rng.standard_normal((_TRIAL_OUTPUTS, _TRIAL_INPUTS, *kernel))
    bias = rng.standard_normal(_TRIAL_OUTPUTS)
    return MergeRule(port, SiteAdapter(operator, tensors)), weight, bias
