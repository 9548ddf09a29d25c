"""Callers feed and read float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapter_export.export.passes.widen_boundary import WidenBoundary
from tests.export.passes.graphs import evaluate, graph_of, idle, shape_of, value_of


def traced() -> ir.Model:
    return graph_of("""
        graph (float16[b, 3] x, int64[b] ids, float16[b, 3] past_key_values__0__key)
            => (float16[b, 3] y, float16[b, 3] present__0__key) {
            y = Relu (x)
            present__0__key = Identity (past_key_values__0__key)
        }
    """)


def test_all_but_the_cache_is_float32() -> None:
    model = traced()
    assert WidenBoundary()(model).modified
    types = {value.name: str(value.dtype) for value in (*model.graph.inputs, *model.graph.outputs)}
    assert types == {
        "x": "FLOAT", "ids": "INT64", "past_key_values.0.key": "FLOAT16", "y": "FLOAT", "present.0.key": "FLOAT16",
    }  # fmt: skip
    assert shape_of(value_of(model, "y")) == ["b", 3]
    x, key = np.array([[-1, 2, 3.5]], np.float32), np.ones((1, 3), np.float16)
    y, present = evaluate(model, x=x, ids=np.zeros(1, np.int64), **{"past_key_values.0.key": key})
    # All of these are numbers of half precision, too.
    assert np.array_equal(y, np.maximum(x, 0))
    assert y.dtype == np.float32
    assert present.dtype == np.float16


def test_a_float32_graph_stays() -> None:
    model = graph_of("graph (float[2] x) => (float[2] z) { z = Relu (x) }")
    assert not WidenBoundary()(model).modified
    assert len(model.graph) == 1


def test_half_precision_that_is_left_is_found() -> None:
    with pytest.raises(ir.passes.PostconditionError, match="'x' is FLOAT16"):
        idle(WidenBoundary)()(traced())
