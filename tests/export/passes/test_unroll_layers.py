"""Layers that were not traced are copies of traced ones, with weights of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from adapter_export.export.passes import run
from adapter_export.export.passes.unroll_layers import UnrollLayers
from adapter_export.export.repeated.stacks import NotUniform, Stack
from tests.export.passes.graphs import graph_of, idle, shape_of, value_of

FEATURES, LAYERS, KEPT = 3, 5, (0, 1, 4)


class Layer(nn.Module):
    """x -> x W + b."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        values = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(FEATURES, FEATURES, generator=values), requires_grad=False)
        self.bias = nn.Parameter(torch.randn(FEATURES, generator=values), requires_grad=False)


def stack() -> Stack:
    layers = tuple(Layer(number) for number in range(LAYERS))
    return Stack("base.layers", "layers", layers, KEPT, dict.fromkeys((2, 3), (1, 4)), ())


LAYER = """
    m{n} = MatMul ({before}, transposed{n})
    s{n} = adapter_export.Site <module: string = "layers.{n}.linear"> (m{n})
    a{n} = Add (s{n}, bias{n})
    p{n} = Add (past{n}, a{n})
    e{n} = adapter_export.Layer <stack: string = "base.layers", number: int = {n}> (a{n})
"""


def traced(
    own: Stack, *changes: tuple[str, str], after: str = "y = Relu (e4)", outputs: str = "float[2,3] y"
) -> ir.Model:
    """A graph of the kept layers, with a cache; `changes` replace text of it."""
    text = "".join(
        LAYER.format(n=number, before=before) for number, before in zip(KEPT, ("start", "e0", "e1"), strict=True)
    )
    for old, new in changes:
        text = text.replace(old, new)
    inputs = "float[2,3] x, float[2,3] past0, float[2,3] past1, float[2,3] past4"
    cached = "float[2,3] p0, float[2,3] p1, float[2,3] p4"
    model = graph_of(f"graph ({inputs}) => ({outputs}, {cached}) {{ start = Neg (x) {text} {after} }}")
    for position, number in enumerate(KEPT):
        value_of(model, f"past{number}").name = f"past_key_values.{position}.key"
        value_of(model, f"p{number}").name = f"present.{position}.key"
        layer = own.layers[number]
        folded = constant(model, f"transposed{number}", f"val_{number}", layer.weight.t().numpy())
        folded.metadata_props["pkg.onnxscript.optimizer.folded_from"] = f"['base.layers.{number}.weight']"
        if f"bias{number}" in text:
            constant(model, f"bias{number}", f"base.layers.{number}.bias", layer.bias.numpy())
    return model


def constant(model: ir.Model, read: str, name: str, array: np.ndarray) -> ir.Value:
    value = next(value for node in model.graph for value in node.inputs if value is not None and value.name == read)
    value.name, value.const_value, value.shape = name, ir.tensor(array, name=name), ir.Shape(array.shape)
    value.type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.register_initializer(value)
    return value


def computed(model: ir.Model, x: np.ndarray, past: Any) -> dict[str, np.ndarray]:
    """What the graph computes, with the markers of sites as the identity."""
    values: dict[str | None, np.ndarray] = {"x": x}
    values |= {value.name: past(value.name) for value in model.graph.inputs if value.name != "x"}
    values |= {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    operators = {
        "Neg": np.negative,
        "Add": np.add,
        "MatMul": np.matmul,
        "Site": np.copy,
        "Relu": lambda v: np.maximum(v, 0),
    }
    for node in model.graph:
        values[node.outputs[0].name] = operators[node.op_type](*(values[value.name] for value in node.inputs))
    return {str(value.name): values[value.name] for value in model.graph.outputs}


def past(name: str) -> np.ndarray:
    return np.full((2, FEATURES), float(name.split(".")[1]), np.float32)


def test_each_layer_has_its_own_weights_cache_and_sites() -> None:
    own = stack()
    model = traced(own)
    assert UnrollLayers([own], "")(model).modified
    x = np.random.default_rng(0).standard_normal((2, FEATURES)).astype(np.float32)
    found = computed(model, x, past)
    value, expected = torch.from_numpy(-x), {}
    for number, layer in enumerate(own.layers):
        value = value @ layer.weight.t() + layer.bias
        expected[f"present.{number}.key"] = value.numpy() + number
    assert [*found] == ["y", *expected]
    assert [value.name for value in model.graph.inputs] == ["x", *(f"past_key_values.{n}.key" for n in range(LAYERS))]
    for name, array in {"y": value.clamp(min=0).numpy(), **expected}.items():
        assert np.allclose(found[name], array, atol=1e-5)
    sites = [node.attributes["module"].value for node in model.graph if node.op_type == "Site"]
    assert sites == [f"layers.{number}.linear" for number in range(LAYERS)]
    assert shape_of(value_of(model, "a1.3")) == shape_of(value_of(model, "a1"))
    names = [value.name for node in model.graph for value in node.outputs]
    assert len(set(names)) == len(names)


def test_paths_in_a_wrapper_of_the_model_are_known() -> None:
    own = stack()
    model = traced(own)
    for value in [*model.graph.initializers.values()]:
        folded = value.metadata_props.get("pkg.onnxscript.optimizer.folded_from")
        if folded is not None:
            value.metadata_props["pkg.onnxscript.optimizer.folded_from"] = folded.replace("base", "model.base")
        else:
            value.name = f"model.{value.name}"
    UnrollLayers([own], "model")(model)
    assert {"model.base.layers.2.bias", "model.base.layers.3.bias"} <= {*model.graph.initializers}
    assert len(model.graph.inputs) == 1 + LAYERS


def test_the_result_of_the_last_layer_keeps_its_name_as_an_output() -> None:
    own = stack()
    model = traced(own, after="", outputs="float[2,3] e4")
    UnrollLayers([own], "")(model)
    assert next(iter(computed(model, np.ones((2, FEATURES), np.float32), past))) == "e4"


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


def test_a_marker_that_is_left_is_found() -> None:
    with pytest.raises(ir.passes.PostconditionError, match="is left"):
        idle(UnrollLayers)([], "")(traced(stack()))
