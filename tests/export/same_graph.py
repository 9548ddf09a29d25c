"""Whether two graphs compute the same with the same nodes, whatever their inner values are called."""

from __future__ import annotations

import hashlib
from typing import Any

import onnx_ir as ir

from adapter_export.export.passes import run
from adapter_export.export.passes.name_axes import NameAxes
from adapter_export.export.trace import Trace


def computed(trace: Trace) -> dict[str, str]:
    """For each output, a digest of all that it is computed from: nodes, attributes, constants, names of inputs.

    The size of an axis counts as the same whichever input it is read from.
    """
    model = trace.model.clone()
    run(model, NameAxes(trace.axes))
    digests: dict[ir.Value, str] = {}
    for value in model.graph.inputs:
        digests[value] = f"input {value.name} {value.dtype} {value.shape}"
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        data = hashlib.sha256(value.const_value.tobytes()).hexdigest()
        digests.setdefault(value, f"constant {value.const_value.dtype} {value.const_value.shape} {data}")
    for node in model.graph:
        inputs = [digests[value] if value is not None else "" for value in node.inputs]
        attributes = sorted((name, _text(attribute)) for name, attribute in node.attributes.items())
        read: Any = _size(node) or (node.op_identifier(), inputs, attributes)
        digest = hashlib.sha256(repr(read).encode()).hexdigest()
        digests |= {value: f"{digest} {value.index()} {value.shape}" for value in node.outputs}
    return {str(value.name): digests[value] for value in model.graph.outputs}


def _size(node: ir.Node) -> str | None:
    """The name of the axis whose size a node reads from an input of the graph; None for other nodes."""
    value = node.inputs[0] if node.op_type == "Shape" else None
    if value is None or not value.is_graph_input() or value.shape is None:
        return None
    start, end = (node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end"))
    return f"sizes {value.shape[start:end]}"


def _text(attribute: ir.Attr) -> Any:
    if attribute.type == ir.AttributeType.TENSOR:
        return hashlib.sha256(attribute.value.tobytes()).hexdigest()
    return str(attribute.value)
