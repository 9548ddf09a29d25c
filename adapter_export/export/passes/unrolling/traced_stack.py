"""The traced layers of a stack in a graph: what they read, which nodes they are, and what they compute for others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx_ir as ir

from adapter_export.bundle.graphs import PAST, PRESENT
from adapter_export.export.markers import LAYER
from adapter_export.export.repeated.stacks import NotUniform, Stack
from adapter_export.naming import DOMAIN

# A tensor of the cache: before or after the run, layer, side in an encoder-decoder, keys or values.
CACHED = re.compile(
    rf"(?P<time>{re.escape(PAST)}|{re.escape(PRESENT)})(?P<layer>\d+)\.(?P<side>(?:\w+\.)?)(?P<tensor>\w+)"
)
# Where the optimizer notes from which constants it computed another.
_FOLDED_FROM = "pkg.onnxscript.optimizer.folded_from"


@dataclass(frozen=True)
class Leaf:
    """What only one layer reads: a weight, or a part of the cache.

    Attributes:
        layer: Number of the layer.
        name: Name of the weight in the layer, or of the part of the cache without the number (`decoder.key`).
    """

    layer: int
    name: str


class TracedStack:
    """The traced layers of a stack in a graph."""

    def __init__(self, graph: ir.Graph, stack: Stack, root: str) -> None:
        """Finds the layers.

        Args:
            graph: The graph.
            stack: The stack, of which some layers were traced.
            root: Path of the model in the module that was traced; empty if it is that module.
        """
        self.graph, self.stack = graph, stack
        self.path = f"{root}.{stack.path}" if root else stack.path
        paths = "|".join(map(re.escape, (self.path, stack.inner)))
        self._number = re.compile(rf"(?<![\w.])({paths})\.\d+(?!\w)")
        self._weights = {
            f"{self.path}.{number}.{name}": Leaf(number, name)
            for number in stack.kept
            for named in (stack.layers[number].named_parameters, stack.layers[number].named_buffers)
            for name, _ in named(remove_duplicate=False)
        }
        self.ends = {
            node.attributes["number"].as_int(): node
            for node in graph
            if node.domain == DOMAIN and node.op_type == LAYER and node.attributes["stack"].value == stack.path
        }
        self._cached = False

    @property
    def in_graph(self) -> bool:
        """Whether the graph has weights of the stack."""
        return any(self.leaf(value) is not None for value in self.graph.initializers.values())

    def take_cache(self) -> None:
        """Makes the cache of the graph, if there is one, that of this stack, and numbers it by its layers."""
        for value in (*self.graph.inputs, *self.graph.outputs):
            if (match := CACHED.fullmatch(value.name or "")) is not None:
                self._cached = True
                number = self.stack.kept[int(match["layer"])]
                value.name = f"{match['time']}{number}.{match['side']}{match['tensor']}"

    def leaf(self, value: ir.Value) -> Leaf | None:
        """Returns the weight that a constant is or was computed from, or the part of the cache that an input is.

        Raises:
            NotUniform: A constant was computed from several weights.
        """
        name = value.name or ""
        if value.is_initializer():
            sources = re.findall(r"'([^']*)'", value.metadata_props.get(_FOLDED_FROM, "")) or [name]
            found = [self._weights[source] for source in sources if source in self._weights]
            if len(found) > 1:
                raise NotUniform(f"constant {name!r} was computed from {sources}")
            return found[0] if found else None
        match = CACHED.fullmatch(name) if self._cached and value.is_graph_input() else None
        return Leaf(int(match["layer"]), match["side"] + match["tensor"]) if match is not None else None

    def weight(self, leaf: Leaf) -> Any:
        """Returns a weight of a layer, a `torch.Tensor`. The layer need not be a traced one."""
        path, _, name = leaf.name.rpartition(".")
        return getattr(self.stack.layers[leaf.layer].get_submodule(path), name)

    def renumbered(self, value: Any, number: object) -> Any:
        """Returns a text with another number in all paths of modules of the stack; other values as they are."""
        return self._number.sub(rf"\g<1>.{number}", value) if isinstance(value, str) else value

    def before(self, number: int) -> ir.Value | None:
        """Returns what the traced layer before a traced layer passes on; None if the graph has no chain of layers."""
        position = self.stack.kept.index(number)
        end = self.ends.get(self.stack.kept[position - 1]) if position else None
        return end.outputs[0] if end is not None else None

    def results(self, number: int) -> list[ir.Value]:
        """Returns what a traced layer computes for others: what it passes on, and its part of the cache, by name."""
        passed = [only_input(self.ends[number])] if number in self.ends else []
        cached = [value for value in self.graph.outputs if self._cached and _layer_of(value) == number]
        return [*passed, *sorted(cached, key=lambda value: value.name or "")]

    @cached_property
    def members(self) -> Mapping[int, list[ir.Node]]:
        """The nodes of each traced layer, in order.

        They depend on the layer's own leaves or on what the layer before passes on, and not on what the layer itself
        passes on. What an earlier layer needs as well is no part of a layer. An example is the mask: its size is that
        of the last layer's cache.
        """
        kept = self.stack.kept
        found: dict[int, list[ir.Node]] = {number: [] for number in kept}
        needed = {number: _ancestors(end) for number, end in self.ends.items()}
        ends = {end: number for number, end in self.ends.items()}
        # The layers whose leaves a value depends on, and those whose results.
        leaves: dict[ir.Value, frozenset[int]] = {}
        passed: dict[ir.Value, frozenset[int]] = {}
        for value in (*self.graph.inputs, *self.graph.initializers.values()):
            if (leaf := self.leaf(value)) is not None:
                leaves[value] = frozenset([leaf.layer])
        for node in self.graph:
            reads = [*_read(node)]
            own = frozenset[int]().union(*(leaves.get(value, ()) for value in reads))
            after = frozenset[int]().union(*(passed.get(value, ()) for value in reads))
            if node in ends:
                own, after = frozenset(), after | {ends[node]}
            else:
                for before, number in zip((None, *kept), kept, strict=False):
                    earlier = before is not None and node in needed.get(before, ())
                    if (number in own or before in after) and number not in after and not earlier:
                        found[number].append(node)
            leaves.update(dict.fromkeys(node.outputs, own))
            passed.update(dict.fromkeys(node.outputs, after))
        return found


def only_input(node: ir.Node) -> ir.Value:
    """Returns the input of a node that has one."""
    (value,) = node.inputs
    assert value is not None
    return value


def _layer_of(value: ir.Value) -> int | None:
    match = CACHED.fullmatch(value.name or "")
    return int(match["layer"]) if match is not None else None


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Yields what a node and the graphs inside it read."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        graphs = {ir.AttributeType.GRAPH: [attribute.value], ir.AttributeType.GRAPHS: attribute.value}
        for graph in graphs.get(attribute.type, []):
            for inner in graph:
                yield from _read(inner)


def _ancestors(node: ir.Node) -> set[ir.Node]:
    """Returns the nodes that a node depends on."""
    found: set[ir.Node] = set()
    todo = [node]
    while todo:
        for value in _read(todo.pop()):
            if (producer := value.producer()) is not None and producer not in found:
                found.add(producer)
                todo.append(producer)
    return found
