"""The modules of a model in a graph: its linear layers and norms, with the values that go in and come out."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapter_export.architectures.registry import facts
from adapter_export.architectures.renames import canonical
from adapter_export.errors import InputError
from adapter_export.grafting.dialects import Dialect
from adapter_export.sites import strip_prefix

if TYPE_CHECKING:
    import onnx_ir as ir

# Operators that multiply by a weight, and the position of the weight among their inputs.
MULTIPLY = {"MatMul": 1, "Gemm": 1, "FusedMatMul": 1, "MatMulNBits": 1}
_NORMS = ("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization")
# These add their first two inputs, and norm the sum, which is their last output.
_SKIP_NORMS = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
_SUM = 3
# The end of the name of a module that is used again.
_AGAIN = re.compile(r"_\d+$")
# Operators that may add the bias of the linear layer before them, and the position of the bias among their inputs.
_ADDS_BIAS = {"SkipLayerNormalization": 4, "BiasGelu": 1, "FastGelu": 1, "MultiHeadAttention": 3, "Attention": 2}


@dataclass
class Linear:
    """One use of a linear layer.

    Attributes:
        node: The node that multiplies by the weight.
        entry: The node and the position of its input that the layer reads.
        y: The layer's output, with its bias.
    """

    node: ir.Node
    entry: tuple[ir.Node, int]
    y: ir.Value

    @property
    def u(self) -> ir.Value:
        """The layer's input."""
        node, index = self.entry
        value = node.inputs[index]
        assert value is not None
        return value

    @property
    def nodes(self) -> list[ir.Node]:
        """The nodes from the product to the layer's output."""
        found, value = [self.node], self.node.outputs[0]
        while value is not self.y:
            found.append(next(user for user, _ in value.uses()))
            value = found[-1].outputs[0]
        return found

    @property
    def weight(self) -> ir.Value:
        """The weight, as the node takes it."""
        value = self.node.inputs[MULTIPLY[self.node.op_type]]
        assert value is not None
        return value

    @property
    def features(self) -> tuple[int, int]:
        """Features of the input and of the output."""
        if self.node.op_type == "MatMulNBits":
            return integer(self.node, "K"), integer(self.node, "N")
        shape = self.weight.shape
        if shape is None or len(shape) != 2 or not shape.is_static():
            raise InputError(f"node {self.node.name!r}: expected a matrix as its weight, found shape {shape}")
        rows, columns = int(shape[0]), int(shape[1])  # type: ignore[arg-type]
        transposed = self.node.attributes.get("transB")
        return (columns, rows) if transposed is not None and transposed.as_int() else (rows, columns)


@dataclass
class Norm:
    """One use of a norm."""

    node: ir.Node

    @property
    def features(self) -> int:
        """Features of the norm's input; 0 if the graph does not show them."""
        weight = self.node.inputs[2 if self.adds else 1]
        return int(weight.shape[0]) if weight is not None and weight.shape is not None else 0  # type: ignore[arg-type]

    @property
    def adds(self) -> bool:
        """Whether the node adds the residual itself."""
        return self.node.op_type in _SKIP_NORMS

    @property
    def z(self) -> ir.Value:
        """The norm's input. A node that adds the residual gets it as an output, if it had none."""
        if not self.adds:
            value = self.node.inputs[0]
            assert value is not None
            return value
        if len(self.node.outputs) <= _SUM:
            self.node.resize_outputs(_SUM + 1)
        value, other = self.node.outputs[_SUM], self.node.inputs[0]
        assert other is not None
        if not value.name:
            value.name = f"{self.node.name}/sum"
        value.type, value.shape = value.type or other.type, value.shape or other.shape
        return value


class Modules:
    """The modules of a graph, by their paths in today's transformers, without the prefix of a task class."""

    def __init__(self, graph: ir.Graph, dialect: Dialect, model_type: str) -> None:
        """Finds the modules.

        Args:
            graph: The graph.
            dialect: How its nodes are named.
            model_type: The `model_type` of the model's config.

        Raises:
            InputError: The graph's nodes are not named by modules.
        """
        self.dialect, self.model_type = dialect, model_type
        self.prefix = facts(model_type).prefix
        named = {node: dialect.path_of(node) for node in graph}
        first = first_uses(set(named.values()))
        paths = {node: canonical(model_type, first[path]) for node, path in named.items()}
        # Nodes of modules that are used again.
        self._again = {node for node, path in named.items() if first[path] != path}
        # Whether the graph is that of a task class.
        self.nested = any(path.startswith(f"{self.prefix}.") for path in paths.values())
        self._paths = {
            node: strip_prefix(path, self.prefix)
            for node, path in paths.items()
            if path and (not self.nested or path.startswith(f"{self.prefix}."))
        }
        self._order = {node: number for number, node in enumerate(graph)}
        self.linear: dict[str, list[Linear]] = {}
        # Linear layers outside of the base model, by their whole paths.
        self.outside: dict[str, list[Linear]] = {}
        self.norms: dict[str, list[Norm]] = {}
        for node, path in self._paths.items():
            if multiplies(node):
                self.linear.setdefault(path, []).append(_linear(node, path, self._paths))
            elif node.op_type in _NORMS or node.op_type in _SKIP_NORMS:
                self.norms.setdefault(path, []).append(Norm(node))
        for node, path in paths.items():
            if node not in self._paths and path and multiplies(node):
                self.outside.setdefault(path, []).append(_linear(node, path, paths))
        if not self.linear:
            raise InputError(
                f"graph of {dialect.name}: no node that multiplies by a weight tells its module, as "
                f"{'encoder.layer.0.output.dense' if dialect.scopes else '/encoder/layer.0/output/dense/MatMul'}"
                + ("; with --model, nodes are recognised by their weights" if dialect.scopes else "")
            )

    def near(self, path: str) -> list[str]:
        """Returns the names of some nodes of the layer that a module belongs to."""
        parts = path.split(".")
        while parts:
            names = [str(node.name) for node, own in self._paths.items() if _inside(own, ".".join(parts))]
            if names:
                return names[:5]
            parts.pop()
        return []

    def path_of(self, node: ir.Node) -> str:
        """Returns the path of the module that a node belongs to; empty for none."""
        return self._paths.get(node, "")

    def all_paths(self) -> Iterable[str]:
        """Yields the paths of all modules, containers before what they contain."""
        found: dict[str, None] = {}
        for path in self._paths.values():
            parts = path.split(".")
            found |= dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts) + 1))
        return found

    def linear_in(self, path: str) -> list[str]:
        """Returns the module itself if it is a linear layer, and otherwise the last linear layer inside of it."""
        if path in self.linear:
            return [path]
        inside = [own for node in self.within(path) if (own := self.path_of(node)) in self.linear]
        return inside[-1:]

    def is_shared(self, path: str) -> bool:
        """Whether a module is used several times."""
        nodes = self.within(path)
        return not self._again.isdisjoint(nodes) or any(
            len(self.linear.get(self._paths[node], ())) > 1 for node in nodes
        )

    def reader_of(self, path: str, use: int) -> tuple[ir.Node, int] | Norm | None:
        """Returns the first node of a module that reads a value from outside, with the position of that input.

        A norm that adds the residual itself is returned as such: the module reads the sum.

        Args:
            path: The module.
            use: Which of its uses, from 0; None is returned where the graph does not tell them apart.
        """
        if path in self.linear:
            layers = self.linear[path]
            return layers[use].entry if use < len(layers) else None
        if self.is_shared(path):
            return None
        for node in self.within(path):
            if node.op_type in _SKIP_NORMS:
                return Norm(node)
            for index, value in enumerate(node.inputs):
                if value is not None and not _is_weight(value) and not self._made_in(value, path):
                    return node, index
        return None

    def output_of(self, path: str) -> ir.Value | Norm | None:
        """Returns the value that a module of several nodes gives: the last one that nodes outside of it read.

        If a norm outside adds it to the residual, which comes from inside, too, the output of the module is their sum,
        and the norm is returned.
        """
        for node in reversed(self.within(path)):
            for value in node.outputs:
                users = [user for user, _ in value.uses() if not _inside(self.path_of(user), path)]
                if users and users[0].op_type in _SKIP_NORMS:
                    return Norm(users[0])
                if users:
                    return value
        return None

    def within(self, path: str) -> list[ir.Node]:
        """Returns the nodes of a module, and of those inside of it, in the order of the graph."""
        nodes = [node for node, own in self._paths.items() if _inside(own, path)]
        return sorted(nodes, key=lambda node: self._order.get(node, len(self._order)))

    def _made_in(self, value: ir.Value, path: str) -> bool:
        maker = value.producer()
        if maker is None:
            return False
        return maker.op_type == "Constant" or _inside(self.path_of(maker), path)


def integer(node: ir.Node, name: str) -> int:
    """Returns an attribute of a node. Raises InputError if it is no integer."""
    attribute = node.attributes.get(name)
    if attribute is None or not isinstance(attribute.value, int):
        raise InputError(f"node {node.name!r}: expected an integer attribute {name!r}, found none")
    return attribute.value


def _linear(node: ir.Node, path: str, paths: Mapping[ir.Node, str]) -> Linear:
    """Follows the values of a layer from its product to where they enter and leave the layer.

    Args:
        node: The node that multiplies by the weight.
        path: The layer.
        paths: The module of each node.
    """
    first, index = node, 0
    while (
        (value := first.inputs[index]) is not None
        and (maker := value.producer()) is not None
        and paths.get(maker) == path
    ):
        first, index = maker, 0
    y = node.outputs[0]
    while (uses := y.uses()) and all(paths.get(user) == path for user, _ in uses):
        following = next(user for user, _ in uses)
        # A shape that is computed from the value is not the value.
        if following.op_type == "Shape" or len(following.outputs) != 1:
            break
        y = following.outputs[0]
    return Linear(node, (first, index), y)


def first_uses(paths: Collection[str]) -> dict[str, str]:
    """Returns for each path of a graph the path of the first use of the same module."""
    return {path: _first_use(path, paths) for path in paths}


def _first_use(path: str, known: Container[str]) -> str:
    """Returns the path of a module that is used again: the tracer adds `_1` to its name, and so on."""
    parts: list[str] = []
    for part in path.split("."):
        first = _AGAIN.sub("", part)
        parts.append(first if first != part and ".".join([*parts, first]) in known else part)
    return ".".join(parts)


def unfinished(linear: Linear) -> ir.Node | None:
    """Returns the node that adds the bias of a linear layer together with something else; None if there is none."""
    for user, index in linear.y.uses():
        position = _ADDS_BIAS.get(user.op_type)
        if position is not None and index < position < len(user.inputs) and user.inputs[position] is not None:
            return user
    return None


def multiplies(node: ir.Node) -> bool:
    """Returns whether a node multiplies by a weight."""
    return node.op_type in MULTIPLY and _is_weight(node.inputs[MULTIPLY[node.op_type]])


def _is_weight(value: ir.Value | None) -> bool:
    """Whether a value is an initializer, or a constant."""
    if value is None:
        return False
    maker = value.producer()
    return value.is_initializer() if maker is None else maker.op_type == "Constant"


def _inside(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.")
