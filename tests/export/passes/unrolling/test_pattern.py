"""A layer is copied only if another layer is equal to it."""

from __future__ import annotations

import pytest

from adapter_export.export.passes import run
from adapter_export.export.passes.unroll_layers import UnrollLayers
from adapter_export.export.repeated.stacks import NotUniform
from tests.export.passes.unrolling.layers import constant, stack, traced


@pytest.mark.parametrize(
    ("changes", "after", "reason"),
    [
        ([("s4 = adapter_export.Site", "s4 = adapter_export.Head")], "y = Relu (e4)", "node .* differs from"),
        ([('"layers.4.linear"', '"layers.4.other"')], "y = Relu (e4)", "node .* differs from"),
        ([("Add (s4, bias4)", "Add (bias4, s4)")], "y = Relu (e4)", "is not"),
        ([("MatMul (e1", "MatMul (start")], "y = Relu (e4)", "is not"),
        ([("a4 = Add (s4, bias4)", "b4 = Add (s4, bias4) a4 = Add (b4, x)")], "y = Relu (e4)", "differ|is not"),
        ([], "y = Add (m1, e4)", "of layer 1 is read by"),
        ([("Add (s4, bias4)", "Add (s4, bias1)")], "y = Relu (e4)", "is not Leaf"),
    ],
    ids=["operator", "site", "order", "chain", "more", "read outside", "weight of another"],
)
def test_layers_that_differ_are_refused(changes: list[tuple[str, str]], after: str, reason: str) -> None:
    own = stack()
    with pytest.raises(NotUniform, match=reason):
        run(traced(own, *changes, after=after), UnrollLayers([own], ""))


def test_a_constant_that_does_not_follow_from_a_weight_is_refused() -> None:
    own = stack()
    model = traced(own)
    for number in (1, 4):
        constant(model, f"val_{number}", f"val_{number}", 2 * own.layers[number].weight.t().numpy())
    with pytest.raises(NotUniform, match="it is not known how 'val_"):
        run(model, UnrollLayers([own], ""))
    model = traced(own)
    for number in (1, 4):
        value = model.graph.initializers[f"val_{number}"]
        sources = [f"base.layers.{number}.weight", f"base.layers.{number}.bias"]
        value.metadata_props["pkg.onnxscript.optimizer.folded_from"] = str(sources)
    with pytest.raises(NotUniform, match="was computed from"):
        run(model, UnrollLayers([own], ""))
