"""A cache has the names that runtimes for language models know."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from adapter_export.export.passes.name_cache import NameCache
from tests.export.passes.graphs import graph_of, idle

TRACED = {
    "input.past_key_values.layers.10.keys": "past_key_values.10.key",
    "past_key_values.layers.1.values": "past_key_values.1.value",
    "past_key_values.self_attention_cache.layers.0.keys": "past_key_values.0.decoder.key",
    "input.past_key_values.cross_attention_cache.layers.0.values": "past_key_values.0.encoder.value",
}


def traced() -> ir.Model:
    model = graph_of("""
        graph (float[2] a, float[2] b, float[2] c, float[2] d, int64[2] input_ids)
            => (float[2] logits, float[2] grown) { logits = Add (a, b) grown = Add (c, d) }
    """)
    for value, name in zip(model.graph.inputs, TRACED, strict=False):
        value.name = name
    model.graph.outputs[1].name = "output.past_key_values.layers.10.keys"
    return model


def test_it_comes_last_under_its_public_names() -> None:
    model = traced()
    assert NameCache()(model).modified
    assert [value.name for value in model.graph.inputs] == ["input_ids", *TRACED.values()]
    assert [value.name for value in model.graph.outputs] == ["logits", "present.10.key"]
    assert not NameCache()(model).modified


def test_a_name_of_the_tracer_that_is_left_is_found() -> None:
    with pytest.raises(ir.passes.PostconditionError, match="a part of a cache without a public name"):
        idle(NameCache)()(traced())


def test_an_input_behind_the_cache_is_found() -> None:
    model = graph_of("""
        graph (float[2] past_key_values__0__key, float[2] x) => (float[2] z) { z = Add (past_key_values__0__key, x) }
    """)
    with pytest.raises(ir.passes.PostconditionError, match="an input follows those of the cache"):
        idle(NameCache)()(model)
