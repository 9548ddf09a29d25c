"""Joins the graphs of an encoder and a decoder that a tool made separately."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_export.bundle.graphs import PRESENT, is_cache, past_of
from adapter_export.errors import InputError
from adapter_export.grafting.dialects import Dialect

if TYPE_CHECKING:
    import onnx_ir as ir

HIDDEN, LOGITS = "last_hidden_state", "logits"
_READ_HIDDEN, _READ_MASK, _MASK = "encoder_hidden_states", "encoder_attention_mask", "attention_mask"
# The decoder's tokens, in its own graph and in a graph of both, as in transformers.
_IDS, _DECODER_IDS = "input_ids", "decoder_input_ids"


def join(encoder: ir.Model, decoder: ir.Model, dialect: Dialect) -> ir.Model:
    """Returns one graph of an encoder and a decoder without a cache. The decoder's graph becomes it.

    Nodes and values of the encoder's graph are named as in a graph of the whole model: the tool traced the encoder
    alone.

    Args:
        encoder: Computes `last_hidden_state`.
        decoder: Reads `encoder_hidden_states`.
        dialect: How the nodes of both are named.

    Raises:
        InputError: The graphs do not fit each other.
    """
    import onnx_ir as ir

    inputs = {value.name: value for value in decoder.graph.inputs}
    hidden = next((value for value in encoder.graph.outputs if value.name == HIDDEN), None)
    if hidden is None or _READ_HIDDEN not in inputs:
        raise InputError(
            f"graph: expected an encoder with an output {HIDDEN!r} and a decoder with an input {_READ_HIDDEN!r}, found "
            f"{_names(encoder.graph.outputs)} and {_names(decoder.graph.inputs)}"
        )
    if encoder.graph.opset_imports != decoder.graph.opset_imports:
        raise InputError(
            f"graph: expected an encoder and a decoder of one opset, found {encoder.graph.opset_imports} and "
            f"{decoder.graph.opset_imports}"
        )
    _name_whole(encoder.graph, _encoder_path(decoder.graph, dialect))
    if _IDS in inputs:
        inputs[_IDS].name = _DECODER_IDS
    own = {value.name: value for value in encoder.graph.inputs}
    _move(encoder.graph, decoder.graph)
    _name_axes(decoder.graph, inputs[_READ_HIDDEN], hidden)
    shared = {_READ_HIDDEN: hidden} | ({_READ_MASK: own[_MASK]} if _MASK in own else {})
    for name, value in shared.items():
        if name in inputs:
            ir.convenience.replace_all_uses_with(inputs[name], value)
            decoder.graph.inputs.remove(inputs[name])
    decoder.graph.outputs.insert(0, hidden)
    return decoder


def cross_states(model: ir.Model) -> list[str]:
    """Returns the names of the outputs with the keys and values of cross-attention."""
    names = [str(value.name) for value in model.graph.outputs]
    return [name for name in names if name.startswith(PRESENT) and ".encoder." in name]


def free_of_tokens(model: ir.Model) -> None:
    """Lets the keys and values of cross-attention be computed without the decoder's tokens.

    They are computed from the encoder's output, but the number of rows may be read from a value of the decoder. By the
    shape of the outputs, it is that of the encoder.

    Args:
        model: A graph of an encoder and a decoder, see `join`.

    Raises:
        InputError: More than the number of rows comes from the decoder.
    """
    import onnx_ir as ir

    graph = model.graph
    hidden = next(value for value in graph.outputs if value.name == HIDDEN)
    tokens = next((value for value in graph.inputs if value.name == _DECODER_IDS), None)
    states = set(cross_states(model))
    waiting: list[ir.Value | None] = [value for value in graph.outputs if value.name in states]
    seen = set(waiting)
    while waiting:
        value = waiting.pop()
        if value is not None and value is tokens:
            raise InputError(f"graph: the keys and values of cross-attention depend on {_DECODER_IDS!r}")
        if value is None or (node := value.producer()) is None or value is hidden:
            continue
        if _is_rows(node):
            rows = ir.node("Shape", [hidden], name=f"{node.name}/rows")
            rows.outputs[0].name = f"{node.name}/rows"
            graph.insert_before(node, rows)
            node.replace_input_with(0, rows.outputs[0])
        following = set(node.inputs) - seen
        seen |= following
        waiting += following


def _is_rows(node: ir.Node) -> bool:
    """Whether a node takes the first size of a value."""
    import onnx_ir as ir

    value, index = (*node.inputs, None, None)[:2]
    if node.op_type != "Gather" or value is None or index is None:
        return False
    shape, number = value.producer(), ir.convenience.get_const_tensor(index)
    whole = shape is not None and shape.op_type == "Shape" and not shape.attributes
    return whole and number is not None and number.size == 1 and int(number.numpy().reshape(-1)[0]) == 0


def check_step(file: Path, graph: ir.Graph, states: Collection[str]) -> None:
    """Checks that the decoder with a cache takes what a bundle's decoder is fed.

    Args:
        file: Its file, for messages.
        graph: Its graph. The shape of its logits is corrected: optimum's says one token, and they are of all tokens.
        states: The encoder's outputs with the keys and values of cross-attention.

    Raises:
        InputError: It takes something else.
    """
    import onnx_ir as ir

    inputs = {str(value.name): value for value in graph.inputs}
    logits = next((value for value in graph.outputs if value.name == LOGITS), None)
    own = {str(value.name) for value in graph.outputs}
    known = {_IDS, _READ_MASK, *(past_of(name) for name in (*states, *own) if is_cache(name))}
    if unknown := set(inputs) - known:
        raise InputError(f"{file}: input {min(unknown)!r}: expected one of {', '.join(sorted(known))[:300]}")
    ids = inputs.get(_IDS)
    if logits is None or logits.shape is None or ids is None or ids.shape is None:
        raise InputError(f"{file}: expected an input {_IDS!r} and an output {LOGITS!r}, found {_names(graph.outputs)}")
    logits.shape = ir.Shape([*ids.shape, logits.shape[-1]])


def keep_outputs(model: ir.Model, names: Collection[str]) -> None:
    """Removes all other outputs, and what only they need: nodes, weights and inputs."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph = model.graph
    if not (dropped := [value for value in graph.outputs if value.name not in names]):
        return
    for value in dropped:
        graph.outputs.remove(value)
    RemoveUnusedNodesPass()(model)
    for value in list(graph.inputs):
        if not value.uses():
            graph.inputs.remove(value)


def _encoder_path(decoder: ir.Graph, dialect: Dialect) -> list[str]:
    """Returns the parts of the encoder's path: it stands where the decoder stands."""
    for node in decoder:
        parts = dialect.path_of(node).split(".")
        if "decoder" in parts:
            return [*parts[: parts.index("decoder")], "encoder"]
    raise InputError("graph: expected nodes of the decoder named like '/decoder/...', found none")


def _name_whole(graph: ir.Graph, path: list[str]) -> None:
    """Names nodes and values of the encoder's graph as in a graph of the whole model, but no inputs and outputs."""
    before = f"/{'/'.join(path)}/"
    public = {*graph.inputs, *graph.outputs}
    for value in graph.initializers.values():
        public.discard(value)
    for node in graph:
        node.name = before + str(node.name).lstrip("/")
        for value in node.outputs:
            if value not in public and value.name:
                value.name = before + value.name.lstrip("/")
    for value in list(graph.initializers.values()):
        value.name = before + str(value.name)


def _name_axes(graph: ir.Graph, read: ir.Value, hidden: ir.Value) -> None:
    """Gives the axes of the decoder's outputs that come from the encoder the encoder's names or sizes."""
    import onnx_ir as ir

    sizes = {str(old): new for old, new in zip(read.shape or (), hidden.shape or (), strict=False)}
    for value in graph.outputs:
        if value.shape is not None:
            value.shape = ir.Shape([dim if isinstance(dim, int) else sizes.get(str(dim), dim) for dim in value.shape])


def _move(encoder: ir.Graph, decoder: ir.Graph) -> None:
    """Moves everything but the outputs of the encoder's graph to the beginning of the decoder's."""
    nodes, weights, inputs = list(encoder), list(encoder.initializers.values()), list(encoder.inputs)
    encoder.outputs.clear()
    encoder.remove(nodes)
    encoder.initializers.clear()
    encoder.inputs.clear()
    for weight in weights:
        decoder.register_initializer(weight)
    decoder.inputs[:0] = inputs
    first = next(iter(decoder))
    decoder.insert_before(first, nodes)


def _names(values: Collection[ir.Value]) -> str:
    return ", ".join(str(value.name) for value in values)[:200] or "none"
