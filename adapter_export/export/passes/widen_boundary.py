"""Float32 at the boundary of graphs that compute in half precision."""

from __future__ import annotations

import onnx_ir as ir

from adapter_export.bundle.graphs import is_cache

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class WidenBoundary(ir.passes.InPlacePass):
    """Lets callers feed and read float32 whatever the graph computes in, as they do with the float32 graph.

    A cache goes from run to run unread, and keeps its dtype.

    Ensures: no other input or output is float16 or bfloat16, and the names of all stay.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, modified = model.graph, False
        for value in graph.inputs:
            if _is_narrow(value):
                _widen_input(graph, value)
                modified = True
        for index, value in enumerate(graph.outputs):
            if _is_narrow(value):
                graph.outputs[index] = _widened_output(graph, value)
                modified = True
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        for value in (*model.graph.inputs, *model.graph.outputs):
            if _is_narrow(value):
                raise ir.passes.PostconditionError(f"{value.name!r} is {value.dtype}")


def _is_narrow(value: ir.Value) -> bool:
    return value.dtype in _HALF and not is_cache(value.name or "")


def _widen_input(graph: ir.Graph, value: ir.Value) -> None:
    assert value.dtype is not None
    narrow = ir.node("Cast", [value], attributes={"to": value.dtype})
    narrow.outputs[0].shape, narrow.outputs[0].dtype = value.shape, value.dtype
    ir.convenience.replace_all_uses_with(value, narrow.outputs[0])
    narrow.replace_input_with(0, value)
    value.dtype = ir.DataType.FLOAT
    graph.insert_before(graph[0], narrow)


def _widened_output(graph: ir.Graph, value: ir.Value) -> ir.Value:
    assert value.dtype is not None
    widen = ir.node("Cast", [value], attributes={"to": ir.DataType.FLOAT})
    output = widen.outputs[0]
    name, value.name = value.name, f"{value.name}_{value.dtype.name.lower()}"
    output.name, output.shape, output.dtype = name, value.shape, ir.DataType.FLOAT
    graph.append(widen)
    return output
