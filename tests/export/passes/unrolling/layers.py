"""A graph of some layers of a stack, as a trace makes it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from adapter_export.export.repeated.stacks import Stack
from tests.export.passes.graphs import graph_of, value_of

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
