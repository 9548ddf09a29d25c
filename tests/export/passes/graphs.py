"""Graphs of a few nodes for the tests of passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort


def graph_of(text: str) -> ir.Model:
    """A model from ONNX text, without its header. Two underscores stand for a dot, which the parser does not take."""
    header = '<ir_version: 10, opset_import: ["" : 20, "adapter_export" : 1]>'
    model = ir.serde.deserialize_model(onnx.parser.parse_model(f"{header} {text}"))
    for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs)):
        value.name = str(value.name).replace("__", ".")
    return model


def value_of(model: ir.Model, name: str) -> ir.Value:
    """A value of the graph by its name."""
    outputs = (value for node in model.graph for value in node.outputs)
    return next(value for value in (*model.graph.inputs, *outputs) if value.name == name)


def shape_of(value: ir.Value) -> list[int | str] | None:
    """Sizes and names of a value's axes."""
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape]


def add_constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """Give a value that the nodes read as `name` this constant."""
    value = next(read for node in model.graph for read in node.inputs if read is not None and read.name == name)
    value.const_value, value.shape = ir.tensor(array, name=name), ir.Shape(array.shape)
    value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    model.graph.register_initializer(value)
    return value


def evaluate(model: ir.Model, **inputs: np.ndarray) -> list[Any]:
    """What plain ONNX Runtime computes."""
    data = ir.serde.serialize_model(model).SerializeToString()
    return list(ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, inputs))


def idle(kind: type[ir.passes.InPlacePass]) -> Any:
    """The same pass, but one that does nothing: what it ensures does not hold then."""

    class Idle(kind):  # type: ignore[misc, valid-type]
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            return ir.passes.PassResult(model, modified=False)

    return Idle
