"""Make the number of labels a dynamic axis, because it depends on the adapter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from adapter_export.bundle.graphs import NUM_LABELS
from adapter_export.export.bound_site import BoundSite


class FreeLabels(ir.passes.InPlacePass):
    """Replaces the traced number of labels by a named axis, downstream of a task head that adapters may replace.

    Ensures: the last axis of every graph output that is computed from such a head is `num_labels`.
    """

    def __init__(self, places: Iterable[BoundSite]) -> None:
        """Makes the pass.

        Args:
            places: The sites of the graph, read when the pass runs.
        """
        self._places = places

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        values = list(self._freed(model.graph))
        for value in values:
            if value.shape is not None:
                value.shape = ir.Shape([*value.shape[:-1], NUM_LABELS]) if value.is_graph_output() else None
        return ir.passes.PassResult(model, modified=bool(values))

    def ensures(self, model: ir.Model) -> None:
        for value in self._freed(model.graph):
            if value.is_graph_output() and value.shape is not None and str(value.shape[-1]) != NUM_LABELS:
                raise ir.passes.PostconditionError(f"output {value.name!r}: expected a last axis {NUM_LABELS}")

    def _freed(self, graph: ir.Graph) -> Iterator[ir.Value]:
        heads = {place.name for place in self._places if place.gives_labels}
        return _downstream(node.outputs[0] for node in graph if node.name in heads)


def _downstream(values: Iterable[ir.Value]) -> Iterator[ir.Value]:
    """Yields every value computed from `values`, themselves included."""
    queue, seen = list(values), set()
    while queue:
        value = queue.pop()
        if value in seen:
            continue
        seen.add(value)
        yield value
        queue += [output for node in value.consumers() for output in node.outputs]
