"""The functions of sites are functions of the model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapter_export.bundle.manifest import SiteRole
from adapter_export.export.bound_site import BoundSite
from adapter_export.export.function import Function
from adapter_export.export.passes.attach_functions import AttachFunctions
from adapter_export.naming import DOMAIN
from tests.export.passes.graphs import evaluate, graph_of, idle

INNER = Function("Half", ("x",), "two = Constant <value_float: float = 2.0> () out = Div (x, two)")
OUTER = Function("Quarter", ("x",), f"half = {DOMAIN}.Half (x) out = {DOMAIN}.Half (half)", (INNER,))


def traced() -> ir.Model:
    return graph_of("""
        graph (float[2] x) => (float[2] z) { y = adapter_export.Quarter (x) z = adapter_export.Quarter (y) }
    """)


def places() -> list[BoundSite]:
    return [BoundSite("m", "m", "output", SiteRole.ADAPTER, "made up", "quarter", OUTER, {})] * 2


def test_each_once_with_those_that_it_calls() -> None:
    model = traced()
    assert AttachFunctions(places())(model).modified
    assert {name for _, name, _ in model.functions} == {"Half", "Quarter"}
    (z,) = evaluate(model, x=np.array([16, -32], np.float32))
    assert z.tolist() == [1, -2]
    assert not AttachFunctions(places())(model).modified


def test_a_node_without_its_function_is_found() -> None:
    with pytest.raises(ir.passes.PostconditionError, match="no function 'Quarter'"):
        idle(AttachFunctions)(places())(traced())


def test_a_function_without_one_that_it_calls_is_found() -> None:
    model = traced()
    AttachFunctions(places())(model)
    del model.functions[DOMAIN, "Half", ""]
    with pytest.raises(ir.passes.PostconditionError, match="no function 'Half'"):
        AttachFunctions([])(model)
