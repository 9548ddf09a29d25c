"""Fuse the attention of a decoder with its cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from adapter_export.bundle.graphs import is_past
from adapter_export.export.attention import CannotFuse
from adapter_export.export.markers import ATTENTION
from adapter_export.export.storage import initializer
from adapter_export.naming import CONTRIB, DOMAIN

_OP_TYPE = "GroupQueryAttention"
_IDS, _MASK = "input_ids", "attention_mask"
# Axes of keys and values [batch, heads, tokens, head size].
_TOKENS, _RANK = 2, 4
_HEADS_SECOND = [0, 2, 1, 3]
# GroupQueryAttention takes heads of multiples of 8 features.
_HEAD_SIZE = 8


class FuseAttention(ir.passes.InPlacePass):
    """Replaces each marker of attention by ONNX Runtime's GroupQueryAttention, which also appends to the cache.

    The mask becomes the bias of the scores, so it may be any mask. Rotary positions stay operators of their own: the
    CPU kernel (ONNX Runtime 1.31) reads the first position of a batch for all its rows.

    ONNX Runtime can then write new keys and values into the memory from which it reads the old ones, which has room for
    more tokens. So no size may be read from the shape of the cache: the number of past tokens is taken from the mask.

    Requires: every marker reads keys and values that are a past, an input of the graph, and new ones.
    Ensures: no marker is left, and no node reads the shape of a cache.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        markers = list(_markers(graph))
        if not markers:
            return ir.passes.PassResult(model, modified=False)
        lengths = _Lengths(graph)
        biases: dict[ir.Value, ir.Value] = {}
        for number, marker in enumerate(markers):
            mask = _input(marker, 3)
            if mask not in biases:
                biases[mask] = _bias(graph, marker, mask, _input(marker, 0), len(biases))
            _replace(graph, marker, biases[mask], lengths, f"attention.{number}")
        lengths.read_from_mask()
        graph.sort()
        model.graph.opset_imports.setdefault(CONTRIB, 1)
        return ir.passes.PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        if left := next(_markers(model.graph), None):
            raise ir.passes.PostconditionError(f"marker {left.name!r} is left")
        appended = [node for node in model.graph if node.op_type == _OP_TYPE and node.domain == CONTRIB]
        caches = {value for node in appended for value in (*node.inputs[3:5], *node.outputs[1:])}
        for node in model.graph:
            if node.op_type == "Shape" and node.inputs[0] in caches and _TOKENS in _axes(node):
                raise ir.passes.PostconditionError(f"node {node.name!r} reads the number of tokens from a cache")


class _Lengths:
    """Numbers of tokens by the inputs of a graph: of its past, of both past and new tokens, and of the latter."""

    def __init__(self, graph: ir.Graph) -> None:
        inputs = {value.name: value for value in graph.inputs}
        if not {_IDS, _MASK} <= set(inputs):
            raise CannotFuse(f"graph: expected inputs {_IDS!r} and {_MASK!r}")
        self._graph, first = graph, graph[0]
        self.total = _shape(graph, first, inputs[_MASK], 1, "attention.total")
        new = _shape(graph, first, inputs[_IDS], 1, "attention.new")
        self.past = _node(graph, first, "Sub", [self.total, new], "attention.past")
        self.rows = _shape(graph, first, inputs[_IDS], 0, "attention.rows")
        narrow = _node(graph, first, "Cast", [self.total], "attention.total_int32", to=ir.DataType.INT32)
        narrow.dtype = ir.DataType.INT32
        one = initializer(graph, "attention.one", np.array([1], np.int32))
        last = _node(graph, first, "Sub", [narrow, one], "attention.last")
        # GroupQueryAttention's inputs seqlens_k, the last key of each row, and total_sequence_length.
        self.last_key = _node(graph, first, "Expand", [last, self.rows], "attention.last_keys")
        self.total_scalar = _node(graph, first, "Squeeze", [narrow], "attention.total_scalar")
        self.presents: list[ir.Value] = []

    def read_from_mask(self) -> None:
        """Lets nodes that read the number of tokens from the shape of the cache read it from the mask."""
        pasts = [value for value in self._graph.inputs if is_past(value.name or "")]
        for values, length in ((pasts, self.past), (self.presents, self.total)):
            for value in values:
                for node, _ in list(value.uses()):
                    if node.op_type == "Shape":
                        self._read(node, value, length)

    def _read(self, node: ir.Node, value: ir.Value, length: ir.Value) -> None:
        axes = _axes(node)
        name = f"{node.outputs[0].name}.by_mask"
        parts = [
            length if axis == _TOKENS else _shape(self._graph, node, value, axis, f"{name}.{axis}") for axis in axes
        ]
        whole = parts[0] if len(parts) == 1 else _node(self._graph, node, "Concat", parts, name, axis=0)
        ir.convenience.replace_all_uses_with(node.outputs[0], whole)
        self._graph.remove(node, safe=True)


def _axes(shape: ir.Node) -> range:
    """Returns the axes of a cache whose sizes a node Shape gives."""
    start, end = (shape.attributes.get_int(name, default) for name, default in (("start", 0), ("end", _RANK)))
    return range(_RANK)[start:end]


def _markers(graph: ir.Graph) -> Iterator[ir.Node]:
    return (node for node in graph if node.domain == DOMAIN and node.op_type == ATTENTION)


def _replace(graph: ir.Graph, marker: ir.Node, bias: ir.Value, lengths: _Lengths, name: str) -> None:
    query, (key, new_key), (value, new_value) = _input(marker, 0), _grown(marker, 1), _grown(marker, 2)
    heads = marker.attributes["num_heads"].as_int()
    size = query.shape[3] if query.shape is not None else None
    if not isinstance(size, int) or size % _HEAD_SIZE or _size(new_value) != size:
        raise CannotFuse(f"graph: heads of {size} features, and values of {_size(new_value)}")
    attributes = {name: marker.attributes[name].value for name in ("num_heads", "kv_num_heads", "scale")}
    flat = [
        _flat(graph, marker, each, f"{name}.{which}")
        for each, which in ((query, "query"), (new_key, "key"), (new_value, "value"))
    ]
    past = [_past(key), _past(value)]
    node = ir.node(
        _OP_TYPE,
        [*flat, *past, lengths.last_key, lengths.total_scalar, None, None, None, bias],
        attributes=attributes,
        domain=CONTRIB,
        num_outputs=3,
        name=name,
    )
    out, *presents = node.outputs
    own = marker.outputs[0]
    out.name, out.type = f"{name}.out", own.type
    if own.shape is not None:
        out.shape = ir.Shape([*own.shape[:2], heads * size])
    graph.insert_before(marker, node)
    for old, new in zip((key, value), presents, strict=True):
        public = old.name
        new.type, new.shape, old.name = old.type, old.shape, f"{public}.concatenated"
        new.name = public
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        lengths.presents.append(new)
    for old in (key, value):
        concat = old.producer()
        assert concat is not None
        graph.remove(concat, safe=True)
    shape = initializer(graph, f"{name}.heads", np.array([0, 0, heads, size], np.int64))
    split = _node(graph, marker, "Reshape", [out, shape], f"{name}.split")
    split.type, split.shape = own.type, own.shape
    ir.convenience.replace_all_uses_with(own, split)
    graph.remove(marker, safe=True)


def _grown(marker: ir.Node, index: int) -> tuple[ir.Value, ir.Value]:
    """Returns the grown keys or values of a marker, and the new ones among them."""
    grown = _input(marker, index)
    concat = grown.producer()
    if (
        concat is None
        or concat.op_type != "Concat"
        or len(concat.inputs) != 2
        or concat.attributes["axis"].as_int() % _RANK != _TOKENS
        or not is_past(getattr(concat.inputs[0], "name", None) or "")
        or any(user is not marker and user.op_type != "Shape" for user, _ in grown.uses())
        or not grown.is_graph_output()
    ):
        raise CannotFuse(f"graph: {grown.name!r} is not a cache and new tokens that one layer reads")
    new = concat.inputs[1]
    assert new is not None
    return grown, new


def _past(grown: ir.Value) -> ir.Value:
    concat = grown.producer()
    assert concat is not None
    return _input(concat, 0)


def _whole(states: ir.Value) -> ir.Value | None:
    """Returns the value [batch, tokens, heads * head size] that states were made from; None if there is none."""
    transpose = states.producer()
    if transpose is None or transpose.op_type != "Transpose" or _permutation(transpose) != _HEADS_SECOND:
        return None
    reshape = _input(transpose, 0).producer()
    whole = None if reshape is None or reshape.op_type != "Reshape" else _input(reshape, 0)
    return whole if whole is not None and _is_whole(whole) else None


def _is_whole(states: ir.Value) -> bool:
    return states.shape is not None and len(states.shape) == _RANK - 1


def _flat(graph: ir.Graph, before: ir.Node, states: ir.Value, name: str) -> ir.Value:
    """Returns states [batch, heads, tokens, head size] as [batch, tokens, heads * head size]."""
    if _is_whole(states):
        return states
    if (whole := _whole(states)) is not None:
        return whole
    by_token = _node(graph, before, "Transpose", [states], f"{name}.by_token", perm=_HEADS_SECOND)
    shape = initializer(graph, f"{name}.shape", np.array([0, 0, -1], np.int64))
    return _node(graph, before, "Reshape", [by_token, shape], f"{name}.flat")


def _bias(graph: ir.Graph, before: ir.Node, mask: ir.Value, like: ir.Value, number: int) -> ir.Value:
    """Returns a mask as what is added to the scores, in their dtype."""
    if mask.dtype is not ir.DataType.BOOL:
        return mask
    dtype = (like.dtype or ir.DataType.FLOAT).numpy()
    name = f"attention.bias{number}"
    zero = initializer(graph, f"{name}.zero", np.array(0, dtype))
    least = initializer(graph, f"{name}.least", np.array(np.finfo(dtype).min, dtype))
    bias = _node(graph, before, "Where", [mask, zero, least], name)
    bias.shape = mask.shape
    return bias


def _shape(graph: ir.Graph, before: ir.Node, value: ir.Value, axis: int, name: str) -> ir.Value:
    return _node(graph, before, "Shape", [value], name, start=axis, end=axis + 1)


def _node(
    graph: ir.Graph, before: ir.Node, op_type: str, inputs: list[ir.Value], name: str, **attributes: object
) -> ir.Value:
    node = ir.node(op_type, inputs, attributes=attributes, name=name)  # type: ignore[arg-type]
    out = node.outputs[0]
    out.name = name
    # Inputs whose dtype the output has come first, but for the condition of Where.
    dtype = ir.DataType.INT64 if op_type == "Shape" else inputs[1 if op_type == "Where" else 0].dtype
    if dtype is not None:
        out.dtype = dtype
    graph.insert_before(before, node)
    return out


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _permutation(node: ir.Node) -> list[int]:
    return list(node.attributes.get_ints("perm", []))


def _size(states: ir.Value) -> object:
    return states.shape[3] if states.shape is not None and len(states.shape) == _RANK else None
