"""The graphs of a bundle have the same adapter tensors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapter_export.bundle.manifest import AdapterTensorInfo, SiteInfo, SiteRole
from adapter_export.dtypes import DType
from adapter_export.export.passes.share_tensors import ShareTensors
from tests.export.passes.graphs import evaluate, graph_of, idle


def site(name: str, info: AdapterTensorInfo) -> SiteInfo:
    module, op_name, _ = name.split(".")
    return SiteInfo(module, "output", SiteRole.ADAPTER, op_name, op_name, "made up", {name: info})


SITES = (
    site("a.ia3.l", AdapterTensorInfo(DType.FLOAT32, (4,), 1.0)),
    site("b.b.down", AdapterTensorInfo(DType.FLOAT16, (4, "b.width"), 0.0)),
)


def other() -> ir.Model:
    return graph_of("graph (float[2] x) => (float[2] z) { z = Relu (x) }")


def test_those_of_other_graphs_are_there_and_change_nothing() -> None:
    model = other()
    assert ShareTensors(SITES)(model).modified
    added = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    assert np.array_equal(added["a.ia3.l"], np.ones(4, np.float32))
    assert np.array_equal(added["b.b.down"], np.zeros((4, 1), np.float16))
    # A run may replace them: they are inputs of the graph, too.
    assert {value.name for value in model.graph.inputs} == {"x", "a.ia3.l", "b.b.down"}
    (z,) = evaluate(model, x=np.array([-1, 2], np.float32))
    assert z.tolist() == [0, 2]
    assert not ShareTensors(SITES)(model).modified


def test_one_that_is_missing_is_found() -> None:
    with pytest.raises(ir.passes.PostconditionError, match=r"adapter tensor 'a\.ia3\.l' is missing"):
        idle(ShareTensors)(SITES)(other())
