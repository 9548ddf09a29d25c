"""A method's merge rule on pieces of a stored weight, so that no matrix is ever in memory whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adapter_export.errors import CannotMerge
from adapter_export.merging.rounding import NAMES, finite, rounded, widened
from adapter_export.methods.contract import Block
from adapter_export.sites import Port

# Values worked on at a time: 512 KiB as float64. A piece and what is made of it stay in a core's cache, and in memory
# that the allocator keeps: with four times as many, half of the CPU time goes into memory given back and taken again.
_PIECE = 1 << 16


@dataclass(frozen=True)
class Layer:
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
class Fold:
    """One adapter's block at a port of a layer. features: of that port."""

    port: Port
    block: Block
    features: int

    def merge(
        self, weight: np.ndarray, bias: np.ndarray | None, outs: slice, ins: slice
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The operator's rule on the outputs `outs` and inputs `ins` of a layer.

        Axes of the operator's tensors whose size is the port's features are cut alike: the rule sees a smaller layer.
        """
        part = ins if self.port is Port.INPUT else outs
        specs = self.block.operator.specs(self.features)
        tensors = {
            name: tensor[tuple(part if dim == self.features else slice(None) for dim in specs[name].dims)]
            for name, tensor in self.block.tensors.items()
        }
        return self.block.operator.merge(self.port, weight, bias, tensors)


@dataclass(frozen=True)
class Change:
    """One stored tensor, a layer's weight or bias, and what is folded into it, in order.

    W' = round(fold_n(... fold_1(float64(W)))) in W's own dtype: several adapters are rounded once.
    """

    name: str
    dtype: str
    layer: Layer
    folds: tuple[Fold, ...]
    bias: bool = False

    def pieces(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of consecutive pieces of the tensor, seen as a matrix (rows of a bias have one column)."""
        rows, columns = (self.layer.outputs, 1) if self.bias else (self.layer.shape[0], self._columns)
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
        for fold in self.folds:
            values = self._bias(fold, values, rows) if self.bias else self._weight(fold, values, rows, columns)
        result = rounded(np.ascontiguousarray(values), self.dtype)
        if not finite(result, self.dtype):
            raise CannotMerge(f"tensor {self.name}: is not finite in {NAMES[self.dtype]} after the merge")
        return result

    @property
    def _columns(self) -> int:
        return self.layer.shape[1] * self.layer.spatial

    def _bias(self, fold: Fold, values: np.ndarray, rows: slice) -> np.ndarray:
        weight = np.zeros((len(values), self.layer.inputs))
        _, bias = fold.merge(weight, values.reshape(-1), rows, slice(0, self.layer.inputs))
        assert bias is not None
        return bias

    def _weight(self, fold: Fold, values: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        height, width, spatial = rows.stop - rows.start, columns.stop - columns.start, self.layer.spatial
        if self.layer.transposed:
            weight, _ = fold.merge(values.reshape(height, width).T, None, columns, rows)
            transposed: np.ndarray = weight.T
            return transposed
        ins = slice(columns.start // spatial, columns.stop // spatial)
        if spatial == 1 or fold.port is not Port.INPUT:
            return fold.merge(values.reshape(height, width), None, rows, ins)[0]
        # Every point of the kernel is a linear layer of its own.
        points = values.reshape(height, width // spatial, spatial).transpose(0, 2, 1)
        weight, _ = fold.merge(points.reshape(height * spatial, -1), None, slice(0, self.layer.outputs), ins)
        whole: np.ndarray = weight.reshape(height, spatial, -1).transpose(0, 2, 1)
        return whole


def changes_bias(fold: Fold, layer: Layer) -> bool:
    """Whether the fold changes the layer's bias, found by asking its rule about one output."""
    one, bias = slice(0, 1), np.zeros(1)
    _, changed = fold.merge(np.zeros((1, layer.inputs)), bias, one, slice(0, layer.inputs))
    return changed is not bias
