"""Give a graph the layers that were not traced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from adapter_export.bundle.graphs import is_cache
from adapter_export.export.markers import LAYER
from adapter_export.export.passes.unrolling.copies import unroll
from adapter_export.export.passes.unrolling.traced_stack import TracedStack, only_input
from adapter_export.export.repeated.stacks import Stack
from adapter_export.naming import DOMAIN


class UnrollLayers(ir.passes.InPlacePass):
    """Copies traced layers in place of the layers that do the same and were not traced.

    The two traced layers that stand for others must be equal, node for node, but for their weights and their part of
    the cache. Each copy has the weights of its own layer.

    Requires: each stack with weights in the graph has a marker at the end of each traced layer, or none at all.
    Ensures: no marker of a layer is left, and the layers of the cache are numbered without gaps.
    """

    def __init__(self, stacks: Sequence[Stack], root: str) -> None:
        """Makes the pass.

        Args:
            stacks: The stacks of the model that were shortened for the trace.
            root: Path of the model in the module that was traced; empty if it is that module.
        """
        self._stacks, self._root = stacks, root

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        stacks = [TracedStack(graph, stack, self._root) for stack in self._stacks]
        stacks = [stack for stack in stacks if stack.in_graph]
        # In an encoder-decoder, the cache is that of the decoder, which comes last.
        for stack in stacks[-1:]:
            stack.take_cache()
        for stack in stacks:
            unroll(stack)
        for marker in [*_ends(graph)]:
            value, end = only_input(marker), marker.outputs[0]
            if end.is_graph_output():
                value.name, end.name = end.name, f"{end.name}.end"
            ir.convenience.replace_all_uses_with(end, value, replace_graph_outputs=True)
            graph.remove(marker, safe=True)
        graph.sort()
        return ir.passes.PassResult(model, modified=bool(stacks))

    def ensures(self, model: ir.Model) -> None:
        if left := next(_ends(model.graph), None):
            raise ir.passes.PostconditionError(f"marker {left.name!r} is left")
        names = [value.name for value in (*model.graph.inputs, *model.graph.outputs) if is_cache(value.name or "")]
        if len(set(names)) != len(names):
            raise ir.passes.PostconditionError("two tensors of the cache have one name")


def _ends(graph: ir.Graph) -> Iterator[ir.Node]:
    return (node for node in graph if node.domain == DOMAIN and node.op_type == LAYER)
