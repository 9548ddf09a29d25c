"""A value that is reshaped and gets its shape back is itself."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapter_export.export.passes.collapse_reshapes import CollapseReshapes
from tests.export.passes.graphs import add_constant, evaluate, graph_of, value_of

X = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)


def traced(merged: list[int], known: list[int | str] | None) -> ir.Model:
    """Splits the features of x into heads, and merges what it splits. known: the shape that the graph tells of that."""
    model = graph_of(
        """graph (float[batch, tokens, 8] x) => (float[m, n, k] z) {
            split = Reshape (x, heads)
            merged = Reshape (split, whole)
            z = Neg (merged)
        }"""
    )
    add_constant(model, "heads", np.array([0, 0, 2, 4], np.int64))
    add_constant(model, "whole", np.array(merged, np.int64))
    value_of(model, "split").shape = ir.Shape(["batch", "tokens", 2, 4])
    value_of(model, "merged").shape = None if known is None else ir.Shape(known)
    return model


@pytest.mark.parametrize("known", [None, ["batch", "tokens", 8]], ids=str)
def test_heads_that_are_split_and_merged(known: list[int | str] | None) -> None:
    model = traced([0, 0, -1], known)
    assert CollapseReshapes()(model).modified
    assert value_of(model, "z").producer().inputs[0] is value_of(model, "x")  # type: ignore[union-attr]
    np.testing.assert_array_equal(evaluate(model, x=X)[0], -X)


def test_sizes_without_names_may_differ() -> None:
    model = traced([0, 0, -1], [None, None, 8])  # type: ignore[list-item]
    value_of(model, "x").shape = ir.Shape([None, None, 8])
    assert not CollapseReshapes()(model).modified


@pytest.mark.parametrize(
    ("merged", "known"),
    [
        ([0, -1, 4], None),
        ([0, -1, 4], ["batch", "tokens*2", 4]),
        # Nothing tells that these are the same.
        ([0, 0, -1], ["batch", "n", 8]),
    ],
)
def test_another_shape_stays(merged: list[int], known: list[int | str] | None) -> None:
    model = traced(merged, known)
    expected = evaluate(model, x=X)[0]
    assert not CollapseReshapes()(model).modified
    np.testing.assert_array_equal(evaluate(model, x=X)[0], expected)
