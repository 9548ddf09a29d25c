"""Turn markers into function nodes with tensors of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.adapter_file import HEAD_SLUG
from adapter_export.bundle.manifest import NUM_LABELS
from adapter_export.export.head import head_operator
from adapter_export.export.markers import HEAD, SITE
from adapter_export.export.passes.functions import Function
from adapter_export.export.storage import Slot, Storage
from adapter_export.methods.contract import Operator
from adapter_export.naming import DOMAIN, tensor_name
from adapter_export.sites import Features, Port, Site

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Bound:
    """A place of the graph after binding. kind: the middle part of its tensors' names. function: what its node calls,
    whose last arguments are the slots."""

    module: str
    site: str
    port: str
    method: str
    kind: str
    function: Function
    slots: Mapping[str, Slot]

    @property
    def name(self) -> str:
        return f"{self.site}.{self.kind}"


def bind(
    graph: ir.Graph,
    operators: Mapping[tuple[str, str], Operator],
    head_defaults: Mapping[str, np.ndarray],
    last_head: str | None,
    storage: Storage,
) -> list[Bound]:
    """Replace each marker by a node of its function, and store each site's tensors once.

    operators: by site name and op_type; a marker of any other is taken out, so one trace serves every choice of
    adapters among those it was made for. head_defaults: tensors of no adapter for the head, by tensor name.
    last_head: the head layer whose outputs are the labels. A site that acts several times (shared layers) gives
    several nodes that read the same tensors.
    Ensures: no marker is left; node names and tensor names are made of site names and are unique.
    """
    bound: dict[str, Bound] = {}
    values: dict[str, list[ir.Value]] = {}
    uses: dict[str, int] = {}
    for node in list(graph):
        if node.domain != DOMAIN or node.op_type not in (SITE, HEAD):
            continue
        place = _head(node, head_defaults, last_head) if node.op_type == HEAD else _site(node, operators)
        if place is None:
            _bypass(graph, node)
            continue
        # What the operator reads, without what it replaces.
        read = [value for value in node.inputs[: len(place.function.arguments) - len(place.slots)] if value is not None]
        place, chosen = storage.place(graph, place, read)
        if place.name not in bound:
            bound[place.name] = place
            values[place.name] = [storage.store(graph, slot) for slot in place.slots.values()]
        uses[place.name] = uses.get(place.name, 0) + 1
        count = uses[place.name]
        inputs = [*chosen, *read, *values[place.name]]
        _replace(graph, node, place.function, inputs, place.name if count == 1 else f"{place.name}#{count}")
    return list(bound.values())


def _site(node: ir.Node, operators: Mapping[tuple[str, str], Operator]) -> Bound | None:
    site = Site(_text(node, "module"), Port(_text(node, "port")))
    if (operator := operators.get((site.name, _text(node, "op_type")))) is None:
        return None
    y = node.inputs[-1]
    assert y is not None
    assert y.dtype is not None
    u = node.inputs[operator.reads.index("u")] if "u" in operator.reads else y
    features = Features(_size(u, operator.axis), _size(y, operator.axis))
    # Each operator has free dims of its own: those that are not active keep their default beside the one that is.
    slots = {
        name: Slot(
            tensor_name(site.name, operator.slug, name),
            tuple(dim if isinstance(dim, int) else f"{site.name}.{operator.slug}.{dim}" for dim in spec.at(features)),
            np.full(spec.shape(features), spec.identity, y.dtype.numpy()),
            spec.identity,
        )
        for name, spec in operator.specs.items()
    }
    return Bound(
        site.module,
        site.name,
        site.port.value,
        operator.method,
        operator.slug,
        Function(operator.op_type, (*operator.reads, *slots), operator.body),
        slots,
    )


def _head(node: ir.Node, defaults: Mapping[str, np.ndarray], last_head: str | None) -> Bound:
    module = _text(node, "module")
    x = node.inputs[0]
    assert x is not None
    assert x.shape is not None
    assert x.dtype is not None
    operator = head_operator(len(x.shape), labels=module == last_head)
    slots = {}
    for name in ("weight", "bias"):
        full = tensor_name(module, HEAD_SLUG, name)
        default = defaults[full].astype(x.dtype.numpy())
        dims: tuple[int | str, ...] = default.shape
        if operator.labels:
            dims = (NUM_LABELS, *default.shape[1:])
        slots[name] = Slot(full, dims, default, identity=None)
    function = Function(operator.op_type, ("x", *slots), operator.body)
    return Bound(module, module, "replace", HEAD_SLUG, HEAD_SLUG, function, slots)


def _replace(graph: ir.Graph, marker: ir.Node, function: Function, inputs: list[ir.Value], name: str) -> None:
    import onnx_ir as ir

    node = ir.Node(DOMAIN, function.op_type, inputs=inputs, num_outputs=1, name=name)
    node.metadata_props.update(marker.metadata_props)
    old, new = marker.outputs[0], node.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    graph.insert_before(marker, node)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(marker, safe=True)


def _bypass(graph: ir.Graph, marker: ir.Node) -> None:
    """Take a marker out: what it would have replaced goes on unchanged."""
    import onnx_ir as ir

    y = marker.inputs[-1]
    assert y is not None
    ir.convenience.replace_all_uses_with(marker.outputs[0], y, replace_graph_outputs=True)
    graph.remove(marker, safe=True)


def _text(node: ir.Node, name: str) -> str:
    return str(node.attributes[name].value)


def _size(value: ir.Value | None, axis: int) -> int:
    assert value is not None
    assert value.shape is not None
    size = value.shape[axis]
    assert isinstance(size, int)
    return size


def downstream(values: Iterable[ir.Value]) -> Iterator[ir.Value]:
    """Every value computed from `values`, themselves included."""
    queue, seen = list(values), set()
    while queue:
        value = queue.pop()
        if value in seen:
            continue
        seen.add(value)
        yield value
        queue += [output for node in value.consumers() for output in node.outputs]
