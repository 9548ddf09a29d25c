"""Float32 at the boundary of graphs that compute in half precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_CACHE = ("past_key_values.", "present.")


def widen_boundary(model: ir.Model) -> None:
    """Let callers feed and read float32 whatever the graph computes in, as they do with the float32 graph.

    A cache goes round without anybody looking at it, and keeps its dtype. Ensures: no other input or output is float16
    or bfloat16; names and shapes stay.
    """
    import onnx_ir as ir

    half = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    graph = model.graph
    for value in graph.inputs:
        if value.dtype in half and not _is_cache(value):
            narrow = ir.node("Cast", [value], attributes={"to": value.dtype})
            narrow.outputs[0].shape, narrow.outputs[0].dtype = value.shape, value.dtype
            ir.convenience.replace_all_uses_with(value, narrow.outputs[0])
            narrow.replace_input_with(0, value)
            value.dtype = ir.DataType.FLOAT
            graph.insert_before(graph[0], narrow)
    for index, value in enumerate(graph.outputs):
        if value.dtype in half and not _is_cache(value):
            widen = ir.node("Cast", [value], attributes={"to": ir.DataType.FLOAT})
            output = widen.outputs[0]
            name, value.name = value.name, f"{value.name}_{value.dtype.name.lower()}"
            output.name, output.shape, output.dtype = name, value.shape, ir.DataType.FLOAT
            graph.append(widen)
            graph.outputs[index] = output


def _is_cache(value: ir.Value) -> bool:
    return (value.name or "").startswith(_CACHE)
