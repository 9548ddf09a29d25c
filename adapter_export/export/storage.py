"""Where an adapter tensor lives in the graph. A mode is a choice of storage; the nodes are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from adapter_export.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

    from adapter_export.export.passes.bind import Bound


@dataclass(frozen=True)
class Slot:
    """One adapter tensor to be stored.

    dims: ints, and names of dims that adapters may differ in. default: the values of no adapter. identity: the one
    number that they all are, None where they differ (the base model's own task head).
    """

    name: str
    dims: tuple[int | str, ...]
    default: np.ndarray
    identity: float | None


class Storage(Protocol):
    """Makes the graph values that a function node reads, and the function where it needs another."""

    def store(self, graph: ir.Graph, slot: Slot) -> ir.Value: ...

    def place(self, graph: ir.Graph, place: Bound, values: Sequence[ir.Value]) -> tuple[Bound, list[ir.Value]]:
        """The place as this storage needs it, of a marker that reads `values`, and what its node reads before them."""


class _OneForAll:
    """Every row of a batch reads the same tensors, so the operator's function is what it is."""

    def place(self, graph: ir.Graph, place: Bound, values: Sequence[ir.Value]) -> tuple[Bound, list[ir.Value]]:
        return place, []


@dataclass(frozen=True)
class Constants(_OneForAll):
    """Mode `embedded`: the tensors of one adapter, as plain initializers of the graph's dtype."""

    tensors: Mapping[str, np.ndarray]

    def store(self, graph: ir.Graph, slot: Slot) -> ir.Value:
        if slot.name not in self.tensors:
            raise InputError(f"adapter: tensor {slot.name!r} is missing")
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            tensor = self.tensors[slot.name].astype(slot.default.dtype)
        if not np.isfinite(tensor).all():
            raise InputError(f"adapter: tensor {slot.name!r}: expected values within {tensor.dtype}, found larger ones")
        return initializer(graph, slot.name, tensor)


@dataclass(frozen=True)
class Overridable(_OneForAll):
    """Mode `swappable`: initializers that are graph inputs too, so that a run may replace them by name.

    Their default is the identity, so a run that replaces none is the base model.
    """

    def store(self, graph: ir.Graph, slot: Slot) -> ir.Value:
        import onnx_ir as ir

        value = initializer(graph, slot.name, slot.default)
        value.shape = ir.Shape(slot.dims)
        graph.inputs.append(value)
        return value


@dataclass(frozen=True)
class Required(_OneForAll):
    """Mode `swappable` for runtimes that read required inputs alone: every run has to be given all tensors."""

    def store(self, graph: ir.Graph, slot: Slot) -> ir.Value:
        import onnx_ir as ir

        dtype = ir.DataType.from_numpy(slot.default.dtype)
        value = ir.Value(name=slot.name, shape=ir.Shape(slot.dims), type=ir.TensorType(dtype))
        graph.inputs.append(value)
        return value


def initializer(graph: ir.Graph, name: str, tensor: np.ndarray) -> ir.Value:
    """The tensor in the graph, under this name."""
    import onnx_ir as ir

    array = np.ascontiguousarray(tensor)
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.Tensor(array, name=name),
    )
    graph.initializers[name] = value
    return value
