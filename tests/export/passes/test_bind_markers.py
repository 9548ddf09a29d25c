"""Markers become nodes with tensors of their own."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapter_export.bundle.manifest import SiteRole
from adapter_export.errors import InputError
from adapter_export.export.bound_site import BoundSite
from adapter_export.export.passes import run
from adapter_export.export.passes.attach_functions import AttachFunctions
from adapter_export.export.passes.bind_markers import BindMarkers
from adapter_export.export.storage import Constants, Overridable, Storage
from adapter_export.methods.ia3 import IA3Operator
from tests.export.passes.graphs import evaluate, graph_of, idle

L = np.random.default_rng(0).standard_normal(4).astype(np.float32)
WEIGHT, BIAS = np.ones((3, 4), np.float32), np.arange(3, dtype=np.float32)
OP_TYPE = IA3Operator().op_type
OPERATORS = {("m", OP_TYPE): IA3Operator()}
DEFAULTS = {"classifier.head.weight": WEIGHT, "classifier.head.bias": BIAS}


def traced(markers: str = "m m") -> ir.Model:
    """A site that acts once or twice, then a task head."""
    lines, value = [], "x"
    for number, module in enumerate(markers.split()):
        attributes = f'module: string = "{module}", port: string = "output", op_type: string = "{OP_TYPE}"'
        sizes = "inputs: int = 4, outputs: int = 4"
        lines.append(f"y{number} = adapter_export.Site <{attributes}, {sizes}> ({value}, {value})")
        value = f"y{number}"
    lines.append(f'logits = adapter_export.Head <module: string = "classifier"> ({value})')
    model = graph_of(f"graph (float[batch, 4] x) => (float[batch, 3] logits) {{ {' '.join(lines)} }}")
    for node in model.graph:
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", 4])
    return model


def bind(model: ir.Model, storage: Storage) -> list[BoundSite]:
    places: list[BoundSite] = []
    run(model, BindMarkers(OPERATORS, DEFAULTS, "classifier", storage, places), AttachFunctions(places))
    return places


def test_a_site_that_acts_twice_has_its_tensors_once() -> None:
    model = traced()
    site, head = bind(model, Overridable())
    assert [node.name for node in model.graph] == ["m.ia3", "m.ia3#2", "classifier.head"]
    assert [value.name for value in model.graph.inputs] == [
        "x", "m.ia3.l", "classifier.head.weight", "classifier.head.bias",
    ]  # fmt: skip
    assert (site.role, site.method, head.role, head.method) == (SiteRole.ADAPTER, "ia3", SiteRole.HEAD, None)
    assert (site.gives_labels, head.gives_labels) == (False, True)
    x = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    (without,), (with_l,) = evaluate(model, x=x), evaluate(model, x=x, **{"m.ia3.l": L})
    np.testing.assert_allclose(without, x @ WEIGHT.T + BIAS, rtol=1e-6)
    np.testing.assert_allclose(with_l, (L * L * x) @ WEIGHT.T + BIAS, rtol=1e-5)


def test_an_operator_that_is_not_wanted_is_removed() -> None:
    model = traced("m other")
    assert [place.name for place in bind(model, Overridable())] == ["m.ia3", "classifier.head"]
    assert [node.name for node in model.graph] == ["m.ia3", "classifier.head"]


def test_an_error_of_the_storage_is_the_callers() -> None:
    with pytest.raises(InputError, match=r"adapter: tensor 'm\.ia3\.l' is missing"):
        bind(traced(), Constants({}))


def test_a_marker_without_a_module_is_refused() -> None:
    model = traced()
    del model.graph[0].attributes["module"]
    with pytest.raises(ir.passes.PreconditionError, match="names no module"):
        BindMarkers(OPERATORS, DEFAULTS, "classifier", Overridable(), [])(model)


def test_a_marker_that_is_left_is_found() -> None:
    with pytest.raises(ir.passes.PostconditionError, match=r"marker .* is left"):
        idle(BindMarkers)(OPERATORS, DEFAULTS, "classifier", Overridable(), [])(traced())


def test_two_nodes_of_one_name_are_found() -> None:
    model = traced()
    bind(model, Overridable())
    model.graph[1].name = "m.ia3"
    with pytest.raises(ir.passes.PostconditionError, match="two nodes have one name"):
        BindMarkers(OPERATORS, DEFAULTS, "classifier", Overridable(), [])(model)
