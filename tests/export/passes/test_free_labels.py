"""The number of labels is the adapter's."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapter_export.bundle.manifest import SiteRole
from adapter_export.export.bound_site import BoundSite, TensorSlot
from adapter_export.export.function import Function
from adapter_export.export.passes.free_labels import FreeLabels
from tests.export.passes.graphs import graph_of, idle, shape_of, value_of


def traced() -> ir.Model:
    model = graph_of("""
        graph (float[batch, 4] x, float[3, 4] w) => (float[batch, 3] logits, float[batch, 4] hidden) {
            hidden = Relu (x)
            scores = adapter_export.Head (hidden, w)
            logits = Neg (scores)
        }
    """)
    model.graph[1].name = "classifier.head"
    value_of(model, "scores").shape = ir.Shape(["batch", 3])
    return model


def head(first: int | str) -> list[BoundSite]:
    slot = TensorSlot("classifier.head.weight", (first, 4), np.zeros((3, 4), np.float32), None)
    function = Function("Head", ("x", "weight"), "")
    return [BoundSite("classifier", "classifier", "replace", SiteRole.HEAD, None, "head", function, {"weight": slot})]


def test_what_comes_from_the_head_has_labels_of_any_number() -> None:
    model = traced()
    assert FreeLabels(head("num_labels"))(model).modified
    assert shape_of(value_of(model, "logits")) == ["batch", "num_labels"]
    # Inside the graph no shape is better than a wrong one.
    assert shape_of(value_of(model, "scores")) is None
    assert shape_of(value_of(model, "hidden")) == ["batch", 4]


def test_an_inner_layer_of_the_head_frees_nothing() -> None:
    model = traced()
    assert not FreeLabels(head(3))(model).modified
    assert shape_of(value_of(model, "logits")) == ["batch", 3]


def test_a_number_that_is_left_is_found() -> None:
    with pytest.raises(ir.passes.PostconditionError, match="output 'logits': expected a last axis num_labels"):
        idle(FreeLabels)(head("num_labels"))(traced())
