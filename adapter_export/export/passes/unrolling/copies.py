"""Adds the layers that were not traced to a graph, as copies of traced ones."""

from __future__ import annotations

import onnx_ir as ir

from adapter_export.bundle.graphs import PAST
from adapter_export.export.passes.unrolling.pattern import Pattern, pattern_of
from adapter_export.export.passes.unrolling.traced_stack import CACHED, Leaf, TracedStack, only_input
from adapter_export.export.repeated.derived import constant_of

_SCOPES = "pkg.torch.onnx.name_scopes"


def unroll(traced: TracedStack) -> None:
    """Adds the layers that were not traced, each between its neighbours.

    Args:
        traced: The traced layers. Their graph is changed.

    Raises:
        NotUniform: Two traced layers that stand for others differ.
    """
    stack = traced.stack
    # All are compared before the first copy changes the graph.
    patterns = {pair: pattern_of(traced, *pair) for pair in sorted(set(stack.alike.values()))}
    before: ir.Value | None = None
    for number in range(len(stack.layers)):
        if (pair := stack.alike.get(number)) is not None:
            copies = _copy(traced, patterns[pair], number, before)
            before = copies[only_input(traced.ends[pair[0]])] if pair[0] in traced.ends else None
            continue
        read = traced.before(number)
        if read is not None and before is not None:
            for node in traced.members[number]:
                _read_instead(node, read, before)
        before = traced.ends[number].outputs[0] if number in traced.ends else None
    _order_cache(traced.graph)


def _copy(traced: TracedStack, pattern: Pattern, number: int, before: ir.Value | None) -> dict[ir.Value, ir.Value]:
    """Adds a copy of a layer, and returns its values by those of the pattern.

    Args:
        traced: The traced layers.
        pattern: The layer to copy.
        number: Number of the new layer.
        before: What the layer before it passes on; None if the graph has no chain of layers.
    """
    copies: dict[ir.Value, ir.Value] = {}
    read = traced.before(pattern.layer)
    if read is not None and before is not None:
        copies[read] = before
    for value, leaf in pattern.leaves.items():
        own = Leaf(number, leaf.name)
        copies[value] = (
            _constant(traced, value, own, pattern.forms[value]) if value in pattern.forms else _past(traced, value, own)
        )
    for node in pattern.nodes:
        copy = _copied(traced, node, number, copies)
        traced.graph.append(copy)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.shape, new.type = f"{old.name}.{number}", old.shape, old.type
            new.metadata_props.update(old.metadata_props)
            copies[old] = new
            if old.is_graph_output() and (match := CACHED.fullmatch(old.name or "")) is not None:
                new.name = f"{match['time']}{number}.{match['side']}{match['tensor']}"
                traced.graph.outputs.append(new)
    return copies


def _copied(traced: TracedStack, node: ir.Node, number: int, copies: dict[ir.Value, ir.Value]) -> ir.Node:
    attributes = [
        attribute
        if (value := traced.renumbered(attribute.value, number)) == attribute.value
        else ir.Attr(attribute.name, attribute.type, value)
        for attribute in node.attributes.values()
    ]
    copy = ir.Node(
        node.domain,
        node.op_type,
        [copies.get(value, value) if value is not None else None for value in node.inputs],
        attributes,
        overload=node.overload,
        num_outputs=len(node.outputs),
        version=node.version,
        name=f"{node.name}.{number}",
    )
    copy.metadata_props.update(node.metadata_props)
    if _SCOPES in copy.metadata_props:
        copy.metadata_props[_SCOPES] = traced.renumbered(copy.metadata_props[_SCOPES], number)
    return copy


def _constant(traced: TracedStack, value: ir.Value, leaf: Leaf, form: str) -> ir.Value:
    """Adds the constant that follows from a layer's weight as `value` does from that of the pattern."""
    assert value.const_value is not None
    named = traced.renumbered(value.name, leaf.layer)
    name = named if named != value.name else f"{value.name}.{leaf.layer}"
    tensor = constant_of(form, traced.weight(leaf), value.const_value, name)
    constant = ir.Value(name=name, shape=value.shape, type=value.type, const_value=tensor)
    constant.metadata_props.update(value.metadata_props)
    traced.graph.register_initializer(constant)
    return constant


def _past(traced: TracedStack, value: ir.Value, leaf: Leaf) -> ir.Value:
    """Adds an input for a layer's part of the cache."""
    past = ir.Value(name=f"{PAST}{leaf.layer}.{leaf.name}", shape=value.shape, type=value.type)
    traced.graph.inputs.append(past)
    return past


def _read_instead(node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    for index, value in enumerate(node.inputs):
        if value is old:
            node.replace_input_with(index, new)


def _order_cache(graph: ir.Graph) -> None:
    """Orders the cache as a trace of all layers does: self-attention before cross-attention, by layer, keys first."""
    for values in (graph.inputs, graph.outputs):
        found = {value: match for value in values if (match := CACHED.fullmatch(value.name or "")) is not None}
        sides = [match["side"] for match in found.values()]
        tensors = [match["tensor"] for match in found.values()]
        order = {
            value: (sides.index(match["side"]), int(match["layer"]), tensors.index(match["tensor"]))
            for value, match in found.items()
        }
        values[:] = sorted(values, key=lambda value: order.get(value, (-1, 0, 0)))
