"""Dynamic axes get their public names."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from adapter_export.export.passes.name_axes import NameAxes
from tests.export.passes.graphs import graph_of, idle, shape_of, value_of

AXES = {"x": {0: "batch", 1: "sequence"}, "mask": {1: "sequence"}}


def traced() -> ir.Model:
    model = graph_of("""
        graph (float[s18, s41] x, float[s18, s41] mask) => (float[s18, s41] z) {
            masked = Mul (x, mask)
            z = Relu (masked)
        }
    """)
    value_of(model, "masked").shape = ir.Shape(["s18*s41", "s180", 4])
    return model


def test_symbols_are_renamed_everywhere_also_within_products() -> None:
    model = traced()
    assert NameAxes(AXES)(model).modified
    assert [shape_of(value) for value in model.graph.inputs] == [["batch", "sequence"]] * 2
    assert shape_of(value_of(model, "z")) == ["batch", "sequence"]
    # s180 is a symbol of its own.
    assert shape_of(value_of(model, "masked")) == ["batch*sequence", "s180", 4]


def test_axes_of_fixed_size_stay() -> None:
    model = graph_of("graph (float[2, 3] x) => (float[2, 3] z) { z = Relu (x) }")
    assert not NameAxes({"x": {0: "batch"}})(model).modified
    assert shape_of(value_of(model, "x")) == [2, 3]


def test_one_symbol_with_two_names_is_refused() -> None:
    with pytest.raises(ir.passes.PreconditionError, match="axis 's18' is to be 'batch' and 'rows'"):
        NameAxes({"x": {0: "batch"}, "mask": {0: "rows"}})(traced())


def test_a_symbol_that_is_left_is_found() -> None:
    with pytest.raises(ir.passes.PostconditionError, match="input 'x': axis 0 is 's18', not 'batch'"):
        idle(NameAxes)(AXES)(traced())
