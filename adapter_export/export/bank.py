"""Mode bank: the tensors of many adapters are stacked, and each row of a batch reads those of its own adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.bank import fill_row, padding_of, row_shape, rows_table
from adapter_export.bundle.graphs import ADAPTER_IDS
from adapter_export.bundle.manifest import SiteRole
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import InputError
from adapter_export.export.bound_site import BoundSite, TensorSlot
from adapter_export.export.function import Function
from adapter_export.export.head import ROW_HEAD
from adapter_export.export.storage import initializer
from adapter_export.methods.contract import WEIGHT
from adapter_export.naming import DOMAIN

if TYPE_CHECKING:
    import onnx_ir as ir

_ROWS = "rows"
# Rank of values [B T, d] or [B, d], with the rows of the batch one after the other. Values of a higher rank have the
# batch as their first axis.
_FLAT = 2


@dataclass(frozen=True)
class Bank:
    """Stacked initializers that are graph inputs too, in the layout of `bundle.bank`. Their defaults are the adapters.

    A runtime that supports only required inputs feeds `adapter_ids`. Others may feed other stacks, with any number of
    rows.

    Attributes:
        adapters: For each adapter, in slots 1, 2, ..., its tensors by operator and full name.
    """

    adapters: Sequence[Mapping[str, Mapping[str, np.ndarray]]]

    def store(self, graph: ir.Graph, place: BoundSite, slot: TensorSlot) -> ir.Value:
        import onnx_ir as ir

        owners = [self.adapters[index][place.op_name] for index in self._owners(place.op_name)]
        own = [tensors.get(slot.name, slot.default) for tensors in owners]
        stacked = self._stack(slot, [slot.default, *own], padding_of(place.role, slot.dims))
        value = initializer(graph, slot.name, stacked)
        value.shape = ir.Shape([_rows_dim(place.op_name), *row_shape_of(slot.dims)])
        graph.inputs.append(value)
        return value

    def place(self, graph: ir.Graph, place: BoundSite, values: Sequence[ir.Value]) -> tuple[BoundSite, list[ir.Value]]:
        # All rows share the weight of the site's layer.
        by_row = [value for name, value in zip(place.function.arguments, values, strict=False) if name != WEIGHT]
        for value in by_row:
            _check_batch(place.name, value)
        (rank,) = {len(value.shape) for value in by_row if value.shape is not None}
        inner = place.function
        if place.role is SiteRole.HEAD:
            inner = Function("RowHead", inner.arguments, ROW_HEAD)
        function = _by_row(inner, tuple(place.slots), flat=rank == _FLAT)
        return replace(place, function=function), [self._rows(graph, place.op_name)]

    def _owners(self, op_name: str) -> list[int]:
        """Returns the adapters that have tensors of an operator. They are its rows 1, 2, ..."""
        return [index for index, operators in enumerate(self.adapters) if op_name in operators]

    def _stack(self, slot: TensorSlot, tensors: Sequence[np.ndarray], padding: float) -> np.ndarray:
        """Returns the tensors as rows of one array, each padded to the largest size."""
        sizes: dict[str, int] = {}
        for tensor in tensors:
            for dim, size in zip(slot.dims, tensor.shape, strict=True):
                if isinstance(dim, str):
                    sizes[dim] = max(size, sizes.get(dim, 1))
        stacked = np.empty((len(tensors), *row_shape(slot.dims, sizes)), slot.default.dtype)
        with np.errstate(over="ignore"):  # values that become infinite are refused below
            for row, tensor in zip(stacked, tensors, strict=True):
                if not np.isfinite(tensor.astype(stacked.dtype)).all():
                    raise InputError(
                        f"adapter: tensor {slot.name!r}: expected values within {stacked.dtype}, found larger ones"
                    )
                fill_row(row, tensor, padding)
        return stacked

    def _rows(self, graph: ir.Graph, op_name: str) -> ir.Value:
        """Returns the rows of an operator's tensors that the rows of the batch read, int64 [batch]."""
        import onnx_ir as ir

        name = f"{op_name}.chosen_rows"
        if (known := next((node.outputs[0] for node in graph if node.outputs[0].name == name), None)) is not None:
            return known
        table = np.zeros(1 + len(self.adapters), np.int64)
        for row, index in enumerate(self._owners(op_name), start=1):
            table[1 + index] = row
        rows = initializer(graph, rows_table(op_name), table)
        rows.shape = ir.Shape(["slots"])
        graph.inputs.append(rows)
        chosen = ir.node("Gather", [rows, _adapter_ids(graph)], attributes={"axis": 0}, name=name)
        value = chosen.outputs[0]
        value.name, value.shape, value.dtype = name, ir.Shape(["batch"]), ir.DataType.INT64
        graph.insert_before(graph[0], chosen)
        return value


def check_bankable(adapters: Mapping[str, Adapter]) -> None:
    """Raises InputError if an adapter has an operator whose tensors cannot be stacked."""
    for name, adapter in adapters.items():
        for site, site_adapter in adapter.sites.items():
            if (reason := site_adapter.operator.unbankable) is not None:
                raise InputError(
                    f"mode bank: adapter {name}: site {site.name}: {reason}; mode swappable takes this adapter"
                )


def row_shape_of(dims: Sequence[int | str]) -> tuple[int | str, ...]:
    """Returns the dims of one row of a tensor like `bundle.bank.row_shape`, but keeps the names of named dims."""
    return (1, *dims) if len(dims) == 1 else tuple(dims)


def _rows_dim(op_name: str) -> str:
    return f"{rows_table(op_name)}_stored"


def _adapter_ids(graph: ir.Graph) -> ir.Value:
    """Returns the graph input `adapter_ids`, int64 [batch], and adds it if it is missing."""
    import onnx_ir as ir

    known = next((value for value in graph.inputs if value.name == ADAPTER_IDS), None)
    if known is None:
        known = ir.Value(name=ADAPTER_IDS, shape=ir.Shape(["batch"]), type=ir.TensorType(ir.DataType.INT64))
        required = sum(value.name not in graph.initializers for value in graph.inputs)
        graph.inputs.insert(required, known)
    return known


def _by_row(inner: Function, tensors: tuple[str, ...], flat: bool) -> Function:
    """Returns a function that selects the tensors of each row, and calls `inner` with them.

    Args:
        inner: The function of the operator.
        tensors: Names of its tensors.
        flat: Whether values are [B T, d]. The function reshapes them to [B, T, d] for `inner`.
    """
    read = inner.arguments[: len(inner.arguments) - len(tensors)]
    by_row = [name for name in read if name != WEIGHT]
    lines = [f"{name} = Gather <axis: int = 0> ({name}_bank, {_ROWS})" for name in tensors]
    values = read
    if flat:
        values = tuple(f"{name}_by_row" if name in by_row else name for name in read)
        lines += [f"batch = Shape ({_ROWS})", "free = Constant <value_ints: ints = [-1]> ()"]
        for name in by_row:
            lines += [
                f"{name}_features = Shape <start: int = -1> ({name})",
                f"{name}_shape = Concat <axis: int = 0> (batch, free, {name}_features)",
                f"{name}_by_row = Reshape ({name}, {name}_shape)",
            ]
    result = "out_by_row" if flat else "out"
    lines.append(f"{result} = {DOMAIN}.{inner.op_type} ({', '.join((*values, *tensors))})")
    if flat:
        lines += [
            f"rows_read = Shape <end: int = -1> ({by_row[-1]})",
            "features_out = Shape <start: int = -1> (out_by_row)",
            "as_read = Concat <axis: int = 0> (rows_read, features_out)",
            "out = Reshape (out_by_row, as_read)",
        ]
    arguments = (_ROWS, *read, *(f"{name}_bank" for name in tensors))
    return Function(f"{inner.op_type}{'OfFlatRows' if flat else 'OfRows'}", arguments, "\n".join(lines), (inner,))


def _check_batch(place: str, value: ir.Value) -> None:
    """Raises InputError if the values at a site cannot be assigned to the rows of the batch."""
    first = None if value.shape is None else value.shape[0]
    name = first if isinstance(first, int) else getattr(first, "value", None)
    if value.shape is None or (len(value.shape) > _FLAT and name != "batch"):
        raise InputError(
            f"mode bank: site {place}: expected values whose first axis is the batch, found {value.shape}; "
            "mode swappable takes this model"
        )
