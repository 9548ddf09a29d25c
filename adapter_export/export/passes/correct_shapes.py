"""Give constants the shapes of their values."""

from __future__ import annotations

import onnx_ir as ir


class CorrectShapes(ir.passes.InPlacePass):
    """Sets the shape of every constant to that of its value.

    A fusion of transformers' exporter (5.23) declares a constant of shape [1] as a scalar.

    Ensures: every constant has the shape of its value.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for value in model.graph.initializers.values():
            if value.const_value is not None and _differs(value):
                value.shape = ir.Shape(value.const_value.shape.numpy())
                modified = True
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        for value in model.graph.initializers.values():
            if value.const_value is not None and _differs(value):
                raise ir.passes.PostconditionError(f"constant {value.name!r} has another shape than its value")


def _differs(value: ir.Value) -> bool:
    assert value.const_value is not None
    return value.shape is None or list(value.shape) != list(value.const_value.shape)
