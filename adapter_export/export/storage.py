"""Where adapter tensors are in the graph. Each mode has its storage; the nodes are the same in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from adapter_export.errors import InputError
from adapter_export.export.bound_site import BoundSite, TensorSlot

if TYPE_CHECKING:
    import onnx_ir as ir


class Storage(Protocol):
    """Makes the graph values that a site's node reads, and its function where it needs another one."""

    def store(self, graph: ir.Graph, place: BoundSite, slot: TensorSlot) -> ir.Value:
        """Adds a tensor to the graph and returns its value.

        Args:
            graph: The graph.
            place: The site that reads the tensor.
            slot: The tensor.

        Raises:
            InputError: The tensor of an adapter is missing, or its values do not fit the dtype of the graph.
        """

    def place(self, graph: ir.Graph, place: BoundSite, values: Sequence[ir.Value]) -> tuple[BoundSite, list[ir.Value]]:
        """Returns the site as this storage needs it.

        Args:
            graph: The graph.
            place: The site.
            values: Values that its node reads besides the tensors.

        Returns:
            The site, and the additional values that its node reads before `values`.
        """


class _OneForAll:
    """Every row of a batch reads the same tensors, so the function of the operator is used unchanged."""

    def place(self, graph: ir.Graph, place: BoundSite, values: Sequence[ir.Value]) -> tuple[BoundSite, list[ir.Value]]:
        return place, []


@dataclass(frozen=True)
class Constants(_OneForAll):
    """Mode embedded: the tensors of one adapter, as plain initializers of the graph's dtype.

    Attributes:
        tensors: The adapter's tensors by full name.
    """

    tensors: Mapping[str, np.ndarray]

    def store(self, graph: ir.Graph, place: BoundSite, slot: TensorSlot) -> ir.Value:
        if slot.name not in self.tensors:
            raise InputError(f"adapter: tensor {slot.name!r} is missing")
        with np.errstate(over="ignore"):  # values that become infinite are refused below
            tensor = self.tensors[slot.name].astype(slot.default.dtype)
        if not np.isfinite(tensor).all():
            raise InputError(f"adapter: tensor {slot.name!r}: expected values within {tensor.dtype}, found larger ones")
        return initializer(graph, slot.name, tensor)


@dataclass(frozen=True)
class Overridable(_OneForAll):
    """Mode swappable: initializers that are graph inputs too, so that a run may replace them by name.

    Their default is the identity, so a run that replaces none computes the base model.
    """

    def store(self, graph: ir.Graph, place: BoundSite, slot: TensorSlot) -> ir.Value:
        return overridable(graph, slot)


@dataclass(frozen=True)
class Required(_OneForAll):
    """Mode swappable for runtimes without overridable initializers: each run has to be given all tensors."""

    def store(self, graph: ir.Graph, place: BoundSite, slot: TensorSlot) -> ir.Value:
        import onnx_ir as ir

        dtype = ir.DataType.from_numpy(slot.default.dtype)
        value = ir.Value(name=slot.name, shape=ir.Shape(slot.dims), type=ir.TensorType(dtype))
        graph.inputs.append(value)
        return value


def overridable(graph: ir.Graph, slot: TensorSlot) -> ir.Value:
    """Adds the tensor as an initializer that is a graph input too, with its default."""
    import onnx_ir as ir

    value = initializer(graph, slot.name, slot.default)
    value.shape = ir.Shape(slot.dims)
    graph.inputs.append(value)
    return value


def initializer(graph: ir.Graph, name: str, tensor: np.ndarray) -> ir.Value:
    """Adds the tensor to the graph under this name."""
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
