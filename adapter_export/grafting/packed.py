"""Linear layers of a graph that hold several layers of the model, as the queries, keys and values of an attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapter_export.architectures.registry import facts
from adapter_export.errors import InputError
from adapter_export.grafting.modules import Linear, Modules, integer

if TYPE_CHECKING:
    import onnx_ir as ir

_ATTENTION = "GroupQueryAttention"


@dataclass
class PackedLinear:
    """One linear layer that holds several.

    Attributes:
        linear: The layer of the graph.
        sizes: The features of the outputs of its parts, by their paths, in their order.
    """

    linear: Linear
    sizes: dict[str, int]
    _outputs: dict[str, ir.Value] = field(default_factory=dict)

    def part(self, graph: ir.Graph, path: str) -> ir.Value:
        """Returns the output of one of its parts. The graph is changed when this is first called."""
        if not self._outputs:
            self._outputs = self._split(graph)
        return self._outputs[path]

    def _split(self, graph: ir.Graph) -> dict[str, ir.Value]:
        import onnx_ir as ir

        whole, name = self.linear.y, self.linear.node.name
        users = list(whole.uses())
        sizes = ir.Value(
            name=f"{name}/sizes",
            shape=ir.Shape([len(self.sizes)]),
            type=ir.TensorType(ir.DataType.INT64),
            const_value=ir.tensor([*self.sizes.values()], dtype=ir.DataType.INT64, name=f"{name}/sizes"),
        )
        graph.initializers[str(sizes.name)] = sizes
        split = ir.node("Split", [whole, sizes], attributes={"axis": -1}, num_outputs=len(self.sizes))
        split.name = f"{name}/split"
        for value, (path, features) in zip(split.outputs, self.sizes.items(), strict=True):
            value.name = f"{name}/{path.rpartition('.')[2]}"
            value.type = whole.type
            value.shape = None if whole.shape is None else ir.Shape([*whole.shape[:-1], features])
        maker = whole.producer()
        assert maker is not None
        graph.insert_after(maker, split)
        if len(users) == 1 and users[0][0].op_type == _ATTENTION and len(self.sizes) == len(("q", "k", "v")):
            # It takes the three together, or each as an input of its own.
            for position, value in enumerate(split.outputs):
                users[0][0].replace_input_with(position, value)
        else:
            joined = ir.node("Concat", split.outputs, attributes={"axis": -1}, name=f"{name}/join")
            new = joined.outputs[0]
            new.name, new.type, new.shape = f"{whole.name}/joined", whole.type, whole.shape
            graph.insert_after(split, joined)
            for user, index in users:
                user.replace_input_with(index, new)
        return dict(zip(self.sizes, split.outputs, strict=True))


def packed_in(modules: Modules) -> dict[str, PackedLinear]:
    """Returns the packed layers of a graph by the paths of their parts, and takes them out of `modules.linear`.

    A layer that is one module in transformers, too, is not among them.

    Raises:
        InputError: The graph does not show the sizes of the parts.
    """
    own = {path for stack in facts(modules.model_type).stacks for path in (stack.fused, *stack.gate, *stack.up)}
    found: dict[str, PackedLinear] = {}
    for path in list(modules.linear):
        parent, _, name = path.rpartition(".")
        parts = modules.dialect.packed.get(name)
        if parts is None or any(one and path.endswith(f".{one}") for one in own):
            continue
        (layer,) = modules.linear.pop(path)
        sizes = _sizes(modules, layer, [f"{parent}.{part}" for part in parts])
        found |= dict.fromkeys(sizes, PackedLinear(layer, sizes))
    return found


def _sizes(modules: Modules, layer: Linear, paths: list[str]) -> dict[str, int]:
    total = layer.features[1]
    if len(paths) == len(("gate", "up")):
        return dict.fromkeys(paths, total // 2)
    parent = paths[0].rpartition(".")[0]
    for node in modules.within(parent):
        if node.op_type == _ATTENTION:
            heads, shared = integer(node, "num_heads"), integer(node, "kv_num_heads")
            if heads < 1 or shared < 1 or total % (heads + 2 * shared):
                raise InputError(f"node {node.name!r}: {heads} and {shared} heads do not fit {total} features")
            size = total // (heads + 2 * shared)
            return dict(zip(paths, (heads * size, shared * size, shared * size), strict=True))
    raise InputError(
        f"node {layer.node.name!r}: expected a node {_ATTENTION} in {parent}, which shows the sizes of its parts"
    )
