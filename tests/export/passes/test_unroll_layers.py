"""Layers that were not traced are copies of traced ones, with weights of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from adapter_export.export.passes.unroll_layers import UnrollLayers
from tests.export.passes.graphs import idle, shape_of, value_of
from tests.export.passes.unrolling.layers import FEATURES, LAYERS, stack, traced


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


def test_a_marker_that_is_left_is_found() -> None:
    with pytest.raises(ir.passes.PostconditionError, match="is left"):
        idle(UnrollLayers)([], "")(traced(stack()))
