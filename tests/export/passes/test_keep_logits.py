"""A run computes the logits of the last tokens only, if it is asked to."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapter_export.export.passes import run
from adapter_export.export.passes.keep_logits import KeepLogits
from tests.export.passes.graphs import evaluate, graph_of, idle, shape_of, value_of

X = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)


def traced() -> ir.Model:
    """A layer of logits, two values that are computed from them, and one that is not."""
    model = graph_of(
        """graph (float[batch, s1, 4] x) => (float[batch, s1, 4] logits, float[batch, s1, 4] hidden) {
            kept = adapter_export.Kept (x)
            product = Mul (kept, kept)
            logits = Tanh (product)
            flat = Flatten <axis: int = 2> (product)
            hidden = Neg (x)
        }"""
    )
    for node in model.graph:
        dims = ["batch*s1", 4] if node.op_type == "Flatten" else ["batch", "s1", 4]
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(dims)
    return model


@pytest.mark.parametrize("keep", [None, 0, 1, 3, 5, 9])
def test_the_last_tokens(keep: int | None) -> None:
    model = traced()
    run(model, KeepLogits())
    given = {} if keep is None else {"logits_to_keep": np.array([keep], np.int64)}
    logits, hidden = evaluate(model, x=X, **given)
    np.testing.assert_allclose(logits, np.tanh(X * X)[:, -(keep or 5) :], rtol=1e-5)
    np.testing.assert_array_equal(hidden, -X)


def test_shapes_say_that_there_may_be_fewer_tokens() -> None:
    model = traced()
    run(model, KeepLogits())
    for name in ("product", "logits"):
        assert shape_of(value_of(model, name)) == ["batch", "kept_sequence", 4]
    assert shape_of(value_of(model, "flat")) == ["batch*kept_sequence", 4]
    assert shape_of(value_of(model, "hidden")) == shape_of(value_of(model, "x")) == ["batch", "s1", 4]


def test_a_graph_without_the_marker_stays_as_it_is() -> None:
    model = graph_of("graph (float[batch, 4] x) => (float[batch, 4] y) { y = Neg (x) }")
    run(model, KeepLogits())
    assert [node.op_type for node in model.graph] == ["Neg"]
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_a_marker_that_is_left_is_an_error() -> None:
    with pytest.raises(ir.passes.PostconditionError, match="is left"):
        idle(KeepLogits)()(traced())
