"""Constant matrices become blocks of 8-bit numbers; `tests/export/test_quantize.py` has whole models."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from adapter_export.export.passes.quantize_weights import QuantizeWeights
from tests.export.passes.graphs import add_constant, evaluate, graph_of


def traced() -> tuple[ir.Model, np.ndarray]:
    model = graph_of("""
        graph (float[rows, 64] x, float[48, 8] adapter) => (float[rows, 8] z) {
            y = MatMul (x, weight)
            z = MatMul (y, adapter)
        }
    """)
    weight = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
    add_constant(model, "weight", weight)
    return model, weight


def test_a_product_with_a_constant_and_none_with_an_input() -> None:
    model, weight = traced()
    assert QuantizeWeights(8)(model).modified
    assert Counter(node.op_type for node in model.graph) == {"MatMulNBits": 1, "MatMul": 1}
    assert {*model.graph.initializers} == {"weight.T.int8", "weight.T.scales"}
    rng = np.random.default_rng(1)
    x, adapter = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 64), (48, 8)))
    (z,) = evaluate(model, x=x, adapter=adapter)
    exact = x @ weight @ adapter
    assert np.abs(z - exact).max() < 0.03 * np.abs(exact).max()
    assert not QuantizeWeights(8)(model).modified


def test_a_graph_without_matrices_stays() -> None:
    model = graph_of("graph (float[2] x) => (float[2] z) { z = Relu (x) }")
    assert not QuantizeWeights(8)(model).modified
    assert "com.microsoft" not in model.graph.opset_imports


def test_a_quantized_matrix_that_no_node_reads_is_found() -> None:
    model, _ = traced()
    QuantizeWeights(8)(model)
    model.graph[1].replace_input_with(0, model.graph.inputs[0])
    model.graph.remove(model.graph[0], safe=True)
    with pytest.raises(ir.passes.PostconditionError, match=r"constant 'weight\.T\.int8' is not read"):
        QuantizeWeights(8)(model)


def test_operators_without_their_domain_are_found() -> None:
    model, _ = traced()
    QuantizeWeights(8)(model)
    del model.graph.opset_imports["com.microsoft"]
    with pytest.raises(ir.passes.PostconditionError, match="without an import of the domain"):
        QuantizeWeights(8)(model)
