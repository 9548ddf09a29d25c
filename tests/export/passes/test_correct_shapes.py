"""Constants have the shapes of their values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapter_export.export.passes.correct_shapes import CorrectShapes
from tests.export.passes.graphs import add_constant, graph_of, idle, shape_of


def traced() -> tuple[ir.Model, ir.Value]:
    model = graph_of("graph (float[2] x) => (float[2] z) { z = Mul (x, scale) }")
    value = add_constant(model, "scale", np.ones(1, np.float32))
    value.shape = ir.Shape([])
    return model, value


def test_a_constant_declared_as_a_scalar() -> None:
    model, value = traced()
    assert CorrectShapes()(model).modified
    assert shape_of(value) == [1]
    assert not CorrectShapes()(model).modified


def test_a_wrong_shape_that_is_left_is_found() -> None:
    with pytest.raises(ir.passes.PostconditionError, match="constant 'scale' has another shape"):
        idle(CorrectShapes)()(traced()[0])
