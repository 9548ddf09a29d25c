"""A marker of attention becomes one operator that appends to the cache, if the graph has the form for it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapter_export.export.attention import CannotFuse
from adapter_export.export.passes import run
from adapter_export.export.passes.fuse_attention import FuseAttention
from tests.export.passes.graphs import evaluate, graph_of, idle, value_of

HEADS, GROUPS, SIZE, PAST = 4, 2, 8, 3
SCALE = 0.3
RANDOM = np.random.default_rng(0)

# Queries of four heads, keys and values of two, and the length of the cache as another output.
TEXT = """graph (int64[batch, new] input_ids, int64[batch, total] attention_mask, bool[batch, 1, new, total] mask,
    float[batch, 4, new, 8] q, float[batch, 2, new, 8] k, float[batch, 2, new, {size}] v,
    float[batch, 2, past, 8] past_key_values__0__key, float[batch, 2, past, {size}] past_key_values__0__value)
    => (float[batch, new, 4, 8] out, float[batch, 2, total, 8] present__0__key,
        float[batch, 2, total, {size}] present__0__value, int64[n] length, int64[4] grown) {{
    present__0__key = Concat <axis: int = {axis}> ({key}, k)
    present__0__value = Concat <axis: int = 2> (past_key_values__0__value, v)
    attended = adapter_export.Attention <num_heads: int = 4, kv_num_heads: int = 2, scale: float = 0.3>
        (q, present__0__key, present__0__value, mask)
    out = Identity (attended)
    of_past = Shape <start: int = 2, end: int = 3> (past_key_values__0__key)
    of_present = Shape (present__0__key)
    length = Identity (of_past)
    grown = Identity (of_present)
}}"""


def traced(size: int = SIZE, axis: int = 2, key: str = "past_key_values__0__key") -> ir.Model:
    model = graph_of(TEXT.format(size=size, axis=axis, key=key))
    attended = value_of(model, "attended")
    attended.type, attended.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", "new", HEADS, SIZE])
    for value in model.graph.outputs:
        value.name = str(value.name).replace("__", ".")
    return model


def inputs(rows: int, new: int, room: int) -> dict[str, np.ndarray]:
    """With a cache that has room for some more tokens than there are."""
    past = np.zeros((2, rows, GROUPS, PAST + room, SIZE), np.float32)
    past[:, :, :, :PAST] = RANDOM.standard_normal((2, rows, GROUPS, PAST, SIZE))
    total = PAST + new
    seen = np.arange(total) <= PAST + np.arange(new)[:, None]
    mask = np.broadcast_to(seen, (rows, 1, new, total)).copy()
    # The first token of the first row is padding.
    mask[0, ..., 0] = False
    states = {
        name: RANDOM.standard_normal((rows, heads, new, SIZE)).astype(np.float32)
        for name, heads in (("q", HEADS), ("k", GROUPS), ("v", GROUPS))
    }
    return {
        "input_ids": np.zeros((rows, new), np.int64),
        "attention_mask": np.ones((rows, total), np.int64),
        "mask": mask,
        **states,
        "past_key_values.0.key": past[0],
        "past_key_values.0.value": past[1],
    }


def expected(given: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The attention, the keys and the values, in float64."""
    key, value = (
        np.concatenate([given[f"past_key_values.0.{name}"][:, :, :PAST], given[name[0]]], axis=2).astype(np.float64)
        for name in ("key", "value")
    )
    every_key, every_value = (np.repeat(states, HEADS // GROUPS, axis=1) for states in (key, value))
    scores = given["q"].astype(np.float64) @ every_key.swapaxes(2, 3) * SCALE
    scores = np.where(given["mask"], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    out = weights / weights.sum(axis=-1, keepdims=True) @ every_value
    return out.swapaxes(1, 2), key, value


@pytest.mark.parametrize(("rows", "new", "room"), [(3, 1, 0), (3, 1, 4), (1, 4, 0), (1, 4, 7)])
def test_attention_with_a_cache(rows: int, new: int, room: int) -> None:
    """The cache has just the past tokens, or room for more; the lengths that the graph tells are those of the mask."""
    model = traced()
    run(model, FuseAttention())
    assert [node.op_type for node in model.graph if node.domain] == ["GroupQueryAttention"]
    given = inputs(rows, new, room)
    out, key, value, length, grown = evaluate(model, **given)
    wanted_out, wanted_key, wanted_value = expected(given)
    np.testing.assert_allclose(out, wanted_out, atol=1e-5)
    np.testing.assert_allclose(key[:, :, : PAST + new], wanted_key, atol=1e-6)
    np.testing.assert_allclose(value[:, :, : PAST + new], wanted_value, atol=1e-6)
    assert length.tolist() == [PAST]
    assert grown.tolist() == [rows, GROUPS, PAST + new, SIZE]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 16}, "heads of 8 features, and values of 16"),
        ({"axis": 1}, "'present.0.key' is not a cache and new tokens that one layer reads"),
        ({"key": "k"}, "'present.0.key' is not a cache and new tokens that one layer reads"),
    ],
)
def test_other_forms_are_told(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CannotFuse, match=message):
        run(traced(**changes), FuseAttention())  # type: ignore[arg-type]


def test_keys_that_another_node_reads_are_told() -> None:
    model = traced()
    node = ir.node("Neg", [value_of(model, "present.0.key")])
    model.graph.append(node)
    with pytest.raises(CannotFuse, match="is not a cache and new tokens that one layer reads"):
        run(model, FuseAttention())


def test_a_graph_without_a_mask_is_told() -> None:
    model = traced()
    value_of(model, "attention_mask").name = "another"
    with pytest.raises(CannotFuse, match="expected inputs 'input_ids' and 'attention_mask'"):
        run(model, FuseAttention())


def test_a_graph_without_markers_stays_as_it_is() -> None:
    model = graph_of("graph (float[2] x) => (float[2] y) { y = Neg (x) }")
    assert not FuseAttention()(model).modified
    assert [node.op_type for node in model.graph] == ["Neg"]


def test_a_cache_whose_length_is_read_is_an_error() -> None:
    model = traced()
    run(model, FuseAttention())
    model.graph.append(ir.node("Shape", [value_of(model, "present.0.key")], name="late"))
    with pytest.raises(ir.passes.PostconditionError, match="node 'late' reads the number of tokens from a cache"):
        idle(FuseAttention)()(model)


def test_a_marker_that_is_left_is_an_error() -> None:
    with pytest.raises(ir.passes.PostconditionError, match="is left"):
        idle(FuseAttention)()(traced())
