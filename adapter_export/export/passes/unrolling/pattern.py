"""A traced layer that is copied for others, after comparing it with another layer that does the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from adapter_export.export.passes.unrolling.traced_stack import Leaf, TracedStack
from adapter_export.export.repeated.derived import form_of
from adapter_export.export.repeated.stacks import NotUniform


@dataclass(frozen=True)
class Pattern:
    """A layer to copy.

    Attributes:
        layer: Its number.
        nodes: Its nodes, in order.
        leaves: What it reads that other layers do not.
        forms: How its constants follow from its weights; see `export.repeated.derived`.
    """

    layer: int
    nodes: list[ir.Node]
    leaves: dict[ir.Value, Leaf] = field(default_factory=dict)
    forms: dict[ir.Value, str] = field(default_factory=dict)


def pattern_of(traced: TracedStack, first: int, last: int) -> Pattern:
    """Returns a traced layer as a pattern.

    The layers `first` and `last` must be equal, from what they compute back to what they read: the same nodes with the
    same attributes and constants, and their own weights, cache, and results of the layer before in the same places.
    What lies outside of both must be the same value.

    Args:
        traced: The traced layers.
        first: Number of the layer to copy.
        last: Number of the other layer.

    Raises:
        NotUniform: The layers differ, or something else reads what is inside them.
    """
    return _Comparison(traced, first, last).pattern()


class _Comparison:
    def __init__(self, traced: TracedStack, first: int, last: int) -> None:
        self._traced, self._first, self._last = traced, first, last
        self._nodes = {number: set(traced.members[number]) for number in (first, last)}
        self._pattern = Pattern(first, traced.members[first])
        # Each value of the first layer, with its counterpart.
        self._pairs: dict[ir.Value, ir.Value] = {}

    def pattern(self) -> Pattern:
        for number in (self._first, self._last):
            self._check_closed(number)
        todo = [*zip(self._traced.results(self._first), self._traced.results(self._last), strict=True)]
        compared: set[ir.Node] = set()
        while todo:
            one, two = todo.pop()
            if one in self._pairs:
                _require(self._pairs[one] is two, f"{one.name!r} has two counterparts")
                continue
            self._pairs[one] = two
            node, twin = one.producer(), two.producer()
            if node is None or node not in self._nodes[self._first]:
                self._compare_read(one, two)
                continue
            _require(
                twin in self._nodes[self._last] and one.index() == two.index(), f"{two.name!r} is not {one.name!r}"
            )
            assert twin is not None
            if node not in compared:
                compared.add(node)
                self._compare_nodes(node, twin)
                reads = zip(node.inputs, twin.inputs, strict=True)
                todo += [(a, b) for a, b in reads if a is not None and b is not None]
        sizes = [len(nodes) for nodes in (compared, *self._nodes.values())]
        _require(len(set(sizes)) == 1, f"layers {self._first} and {self._last} have other numbers of nodes: {sizes}")
        return self._pattern

    def _check_closed(self, number: int) -> None:
        """Checks that nothing outside a layer reads what is inside it, except for its results."""
        results = self._traced.results(number)
        _require(bool(results), f"layer {number} computes nothing")
        readers = {self._traced.ends.get(number), *self._nodes[number]}
        for node in self._nodes[number]:
            for value in node.outputs:
                strangers = [user.name for user in value.consumers() if user not in readers]
                _require(not strangers, f"{value.name!r} of layer {number} is read by {strangers[:3]}")
                _require(not value.is_graph_output() or value in results, f"{value.name!r} is an output of the graph")

    def _compare_read(self, one: ir.Value, two: ir.Value) -> None:
        """Compares what the two layers read."""
        leaf = self._traced.leaf(one)
        if leaf is not None and leaf.layer == self._first:
            self._compare_leaves(leaf, one, two)
            return
        _require(leaf is None and self._traced.leaf(two) is None, f"{one.name!r} is read by several layers")
        if one is two:
            return
        passed = (self._traced.before(self._first), self._traced.before(self._last))
        if (one, two) != passed:
            _require(
                one.const_value is not None and two.const_value is not None and _same(one.const_value, two.const_value),
                f"{one.name!r} is not {two.name!r}",
            )

    def _compare_leaves(self, leaf: Leaf, one: ir.Value, two: ir.Value) -> None:
        other = Leaf(self._last, leaf.name)
        _require(self._traced.leaf(two) == other, f"{one.name!r} is {leaf}, and {two.name!r} is not {other}")
        self._pattern.leaves[one] = leaf
        if one.const_value is None or two.const_value is None:
            return
        weights = self._traced.weight(leaf), self._traced.weight(other)
        form = form_of((one.const_value, weights[0]), (two.const_value, weights[1]))
        if form is None:
            raise NotUniform(f"it is not known how {one.name!r} follows from {leaf}")
        self._pattern.forms[one] = form

    def _compare_nodes(self, one: ir.Node, two: ir.Node) -> None:
        same = (
            one.op_identifier() == two.op_identifier()
            and one.version == two.version
            and [value is None for value in one.inputs] == [value is None for value in two.inputs]
            and len(one.outputs) == len(two.outputs)
            and one.attributes.keys() == two.attributes.keys()
            and all(self._equal(attribute, two.attributes[name]) for name, attribute in one.attributes.items())
        )
        _require(same, f"node {one.name!r} ({one.op_type}) differs from {two.name!r} ({two.op_type})")

    def _equal(self, one: ir.Attr, two: ir.Attr) -> bool:
        if one.type != two.type or one.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return False
        if one.type == ir.AttributeType.TENSOR:
            return _same(one.value, two.value)
        # The markers of adapters name their module.
        return bool(self._traced.renumbered(one.value, "") == self._traced.renumbered(two.value, ""))


def _same(one: Any, two: Any) -> bool:
    return bool(one.dtype == two.dtype and one.shape == two.shape and np.array_equal(one.numpy(), two.numpy()))


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise NotUniform(otherwise)
