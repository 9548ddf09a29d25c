"""Nothing of the exporting machine stays in a graph."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from adapter_export.export.passes.strip_metadata import StripMetadata
from tests.export.passes.graphs import graph_of, idle, value_of

SCOPES = "pkg.torch.onnx.name_scopes"


def traced() -> ir.Model:
    model = graph_of("graph (float[2] x) => (float[2] z) { y = Relu (x) z = Neg (y) }")
    node = model.graph[0]
    node.metadata_props[SCOPES] = "['encoder']"
    node.metadata_props["pkg.torch.onnx.stack_trace"] = "/home/somebody/model.py"
    for item in (model, model.graph, node, value_of(model, "x"), value_of(model, "y")):
        item.doc_string = "/home/somebody"
        item.metadata_props["debug"] = "/home/somebody"
    return model


def test_only_the_names_of_modules_stay() -> None:
    model = traced()
    StripMetadata()(model)
    assert dict(model.graph[0].metadata_props) == {SCOPES: "['encoder']"}
    assert b"somebody" not in ir.serde.serialize_model(model).SerializeToString()


def test_metadata_that_is_left_is_found() -> None:
    with pytest.raises(ir.passes.PostconditionError, match="metadata is left"):
        idle(StripMetadata)()(traced())
