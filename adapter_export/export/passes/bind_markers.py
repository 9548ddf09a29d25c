"""Replace markers by nodes that call functions and read their own tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from adapter_export.bundle.graphs import NUM_LABELS
from adapter_export.bundle.manifest import SiteRole
from adapter_export.export.bound_site import BoundSite, TensorSlot
from adapter_export.export.function import Function
from adapter_export.export.head import head_operator
from adapter_export.export.markers import HEAD, SITE
from adapter_export.export.storage import Storage
from adapter_export.methods.contract import Operator
from adapter_export.naming import DOMAIN, HEAD_OP, tensor_name
from adapter_export.sites import Features, Port, Site


@dataclass
class _Uses:
    """A site that was bound, the values of its tensors, and how many nodes it has so far."""

    place: BoundSite
    values: list[ir.Value]
    nodes: int = field(default=0)


class BindMarkers(ir.passes.InPlacePass):
    """Replaces each marker by a node of its function, and stores the tensors of each site once.

    A marker of an operator that is not wanted is removed, so one trace serves every choice of adapters among those it
    was made for. A site that acts several times (shared layers) has several nodes that read the same tensors.

    Requires: every marker names its module.
    Ensures: no marker is left. Names of nodes and tensors are made of names of sites, and are unique.
    """

    def __init__(
        self,
        operators: Mapping[tuple[str, str], Operator],
        head_defaults: Mapping[str, np.ndarray],
        last_head: str | None,
        storage: Storage,
        places: list[BoundSite],
    ) -> None:
        """Makes the pass.

        Args:
            operators: The operators that are wanted, by name of site and op_type.
            head_defaults: Tensors of the head without an adapter, by full name.
            last_head: The head layer whose outputs are the labels; None without a head.
            storage: Where the tensors are stored.
            places: The pass adds the sites that it bound to this list.
        """
        self._operators, self._head_defaults, self._last_head = operators, head_defaults, last_head
        self._storage, self._places = storage, places

    def requires(self, model: ir.Model) -> None:
        for node in _markers(model.graph):
            if "module" not in node.attributes:
                raise ir.passes.PreconditionError(f"marker {node.name!r} names no module")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, bound = model.graph, dict[str, _Uses]()
        markers = list(_markers(graph))
        for node in markers:
            place = self._head(node) if node.op_type == HEAD else self._site(node)
            if place is None:
                _bypass(graph, node)
                continue
            # What the operator reads, without what it replaces.
            count = len(place.function.arguments) - len(place.slots)
            read = [_in_dtype_of_output(graph, node, value) for value in node.inputs[:count] if value is not None]
            place, chosen = self._storage.place(graph, place, read)
            if (uses := bound.get(place.name)) is None:
                values = [self._storage.store(graph, place, slot) for slot in place.slots.values()]
                uses = bound[place.name] = _Uses(place, values)
            uses.nodes += 1
            name = place.name if uses.nodes == 1 else f"{place.name}#{uses.nodes}"
            _replace(graph, node, place.function, [*chosen, *read, *uses.values], name)
        self._places += [uses.place for uses in bound.values()]
        return ir.passes.PassResult(model, modified=bool(markers))

    def ensures(self, model: ir.Model) -> None:
        if left := next(_markers(model.graph), None):
            raise ir.passes.PostconditionError(f"marker {left.name!r} is left")
        names = [node.name for node in model.graph if node.domain == DOMAIN]
        tensors = [slot.name for place in self._places for slot in place.slots.values()]
        for what, found in (("node", names), ("tensor", tensors)):
            if len(set(found)) != len(found):
                raise ir.passes.PostconditionError(f"two {what}s have one name, among {sorted(map(str, found))[:10]}")

    def _site(self, node: ir.Node) -> BoundSite | None:
        site = Site(_text(node, "module"), Port(_text(node, "port")))
        if (operator := self._operators.get((site.name, _text(node, "op_type")))) is None:
            return None
        y = node.inputs[-1]
        assert y is not None
        assert y.dtype is not None
        features = Features(_number(node, "inputs"), _number(node, "outputs"))
        # Each operator has its own named dims, because an inactive operator keeps its default next to an active one.
        slots = {
            name: TensorSlot(
                tensor_name(site.name, operator.op_name, name),
                tuple(
                    dim if isinstance(dim, int) else f"{site.name}.{operator.op_name}.{dim}"
                    for dim in spec.at(features)
                ),
                np.full(spec.shape(features), spec.identity, y.dtype.numpy()),
                spec.identity,
                spec.composition,
            )
            for name, spec in operator.specs.items()
        }
        function = Function(operator.op_type, (*operator.reads, *slots), operator.body)
        port, method = site.port.value, operator.method
        return BoundSite(site.module, site.name, port, SiteRole.ADAPTER, method, operator.op_name, function, slots)

    def _head(self, node: ir.Node) -> BoundSite:
        module = _text(node, "module")
        x = node.inputs[0]
        assert x is not None
        assert x.shape is not None
        assert x.dtype is not None
        operator = head_operator(len(x.shape), labels=module == self._last_head)
        slots = {}
        for name in ("weight", "bias"):
            full = tensor_name(module, HEAD_OP, name)
            default = self._head_defaults[full].astype(x.dtype.numpy())
            dims: tuple[int | str, ...] = default.shape
            if operator.labels:
                dims = (NUM_LABELS, *default.shape[1:])
            slots[name] = TensorSlot(full, dims, default, identity=None)
        function = Function(operator.op_type, ("x", *slots), operator.body)
        return BoundSite(module, module, "replace", SiteRole.HEAD, None, HEAD_OP, function, slots)


def _markers(graph: ir.Graph) -> Iterator[ir.Node]:
    return (node for node in graph if node.domain == DOMAIN and node.op_type in (SITE, HEAD))


def _in_dtype_of_output(graph: ir.Graph, marker: ir.Node, value: ir.Value) -> ir.Value:
    """Returns a value that an adapter reads in the dtype of the value that it changes.

    T5 in float16 keeps the output layer of its feed-forward in float32, and the residual that an adapter may read in
    float16. The numbers of rows that an embedding reads stay integers.
    """
    y = marker.inputs[-1]
    assert y is not None
    if value.dtype is None or value.dtype == y.dtype or not value.dtype.is_floating_point():
        return value
    cast = ir.node("Cast", [value], attributes={"to": y.dtype}, name=f"{marker.outputs[0].name}/{value.name}/cast")
    new = cast.outputs[0]
    new.name, new.type, new.shape = cast.name, y.type, value.shape
    graph.insert_before(marker, cast)
    return new


def _replace(graph: ir.Graph, marker: ir.Node, function: Function, inputs: list[ir.Value], name: str) -> None:
    node = ir.Node(DOMAIN, function.op_type, inputs=inputs, num_outputs=1, name=name)
    node.metadata_props.update(marker.metadata_props)
    old, new = marker.outputs[0], node.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    graph.insert_before(marker, node)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(marker, safe=True)


def _bypass(graph: ir.Graph, marker: ir.Node) -> None:
    """Removes a marker. Whatever read its output reads what it would have replaced."""
    y = marker.inputs[-1]
    assert y is not None
    ir.convenience.replace_all_uses_with(marker.outputs[0], y, replace_graph_outputs=True)
    graph.remove(marker, safe=True)


def _text(node: ir.Node, name: str) -> str:
    return str(node.attributes[name].value)


def _number(node: ir.Node, name: str) -> int:
    return node.attributes[name].as_int()
