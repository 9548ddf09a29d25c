"""Put the markers of adapters into a graph that another tool made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import onnx_ir as ir

from adapter_export.errors import InputError
from adapter_export.export.markers import HEAD, SITE, marker_attributes
from adapter_export.grafting.modules import Linear, Modules, Norm, unfinished
from adapter_export.grafting.packed import PackedLinear
from adapter_export.methods.contract import Operator
from adapter_export.modelinfo import ModelInfo
from adapter_export.naming import DOMAIN, DOMAIN_VERSION
from adapter_export.sites import Port, Site

_Use = TypeVar("_Use", Linear, Norm)
# Norms that add their first two inputs: the operator that norms alone, and how many weights it has.
_PLAIN = {
    "SkipLayerNormalization": ("LayerNormalization", 2),
    "SkipSimplifiedLayerNormalization": ("SimplifiedLayerNormalization", 1),
}


@dataclass(frozen=True)
class _Place:
    """One use of a site. The values are asked for when a marker is made, because other markers change them.

    Attributes:
        u: Returns the value that an adapter reads.
        y: Returns the value that it replaces.
        users: The nodes that read the replaced value, each with the position among its inputs.
    """

    u: Callable[[], ir.Value]
    y: Callable[[], ir.Value]
    users: Sequence[tuple[ir.Node, int]]


class InsertMarkers(ir.passes.InPlacePass):
    """Puts the markers there that a trace of our own would have.

    Ensures: every site and every layer of the task head has a marker.
    """

    def __init__(
        self,
        sites: Mapping[Site, Sequence[Operator]],
        modules: Modules,
        packed: Mapping[str, PackedLinear],
        info: ModelInfo,
    ) -> None:
        """Makes the pass.

        Args:
            sites: The sites and their operators.
            modules: The modules of the same graph.
            packed: Modules that are parts of one linear layer, by their paths.
            info: Names and sizes of the model.
        """
        self._sites, self._modules, self._packed, self._info = sites, modules, packed, info
        # What the readers of a value read now, if a marker replaces it.
        self._replaced: dict[ir.Value, ir.Value] = {}
        # Norms of sums, by the nodes that added them before.
        self._apart: dict[ir.Node, ir.Node] = {}
        self._count = 0

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        # The places are found in the graph as it was. Inputs come last: their place is one reader of a value, and the
        # other places are all readers.
        places = [(site, self._places(model.graph, site)) for site in self._sites]
        for site, uses in sorted(places, key=lambda pair: pair[0].port is Port.INPUT):
            for operator in self._sites[site]:
                for use, place in enumerate(uses):
                    self._insert(model.graph, site, operator, place, use)
        for path in self._info.head:
            _insert_head(model.graph, path, self._modules.outside[path][0])
        model.graph.opset_imports[DOMAIN] = DOMAIN_VERSION
        model.graph.sort()
        return ir.passes.PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        found = {node.attributes["module"].as_string() for node in model.graph if node.op_type == SITE}
        if missing := [site.name for site in self._sites if site.module not in found]:
            raise ir.passes.PostconditionError(f"site {missing[0]} has no marker")
        heads = {node.attributes["module"].as_string() for node in model.graph if node.op_type == HEAD}
        if left := set(self._info.head) - heads:
            raise ir.passes.PostconditionError(f"head layer {min(left)} has no marker")

    def _places(self, graph: ir.Graph, site: Site) -> list[_Place]:
        """Returns every use of a site: a module that layers share has several."""
        modules = self._modules
        if site.port is Port.NORM:
            return [self._at_norm(graph, norm) for norm in self._found(site, modules.norms)]
        if site.module in self._packed:
            if site.port is Port.INPUT:
                raise self._refusal(site, "its input is that of other layers, too")
            packed = self._packed[site.module]
            self._check_bias(site, packed.linear)
            return [self._at(packed.linear, packed.part(graph, site.module), site)]
        if site.port is Port.OUTPUT and site.module not in modules.linear:
            return [self._behind(graph, site)]
        layers = self._found(site, modules.linear)
        if site.port is Port.INPUT:
            self._check_uses(site, layers)
            return [_Place(partial(_input, layer), partial(_input, layer), [layer.entry]) for layer in layers]
        for layer in layers:
            self._check_bias(site, layer)
        self._check_uses(site, layers)
        return [self._at(layer, layer.y, site) for layer in layers]

    def _at(self, layer: Linear, y: ir.Value, site: Site) -> _Place:
        now = partial(self._now, y)
        if y.is_graph_output():
            raise self._refusal(site, f"its output is the output {y.name!r} of the graph")
        return _Place(partial(_input, layer) if site.port is Port.BRANCH else now, now, list(y.uses()))

    def _now(self, value: ir.Value) -> ir.Value:
        return self._replaced.get(value, value)

    def _found(self, site: Site, known: Mapping[str, list[_Use]]) -> list[_Use]:
        if site.module not in known:
            kind = "norm" if site.port is Port.NORM else "linear layer"
            raise self._refusal(site, f"the graph has no {kind} of this name")
        return known[site.module]

    def _refusal(self, site: Site, reason: str) -> InputError:
        near = ", ".join(self._modules.near(site.module)) or "none"
        return InputError(f"site {site.name}: {reason}; nodes near it: {near}")

    def _check_bias(self, site: Site, layer: Linear) -> None:
        if (node := unfinished(layer)) is not None:
            raise self._refusal(site, f"its bias is added inside of node {node.name!r}, which no adapter can precede")

    def _behind(self, graph: ir.Graph, site: Site) -> _Place:
        """Returns the place behind a module of several nodes."""
        found = None if self._modules.is_shared(site.module) else self._modules.output_of(site.module)
        if found is None:
            raise self._refusal(site, "the graph does not show the output of this module")
        if not isinstance(found, Norm):
            return _Place(partial(self._now, found), partial(self._now, found), list(found.uses()))
        # The sum of the output and the residual goes into the norm, and on as the next residual.
        norm = self._set_apart(graph, found)
        now = partial(self._now, found.z)
        return _Place(now, now, [(norm, 0), *(use for use in found.z.uses() if use[0] is not norm)])

    def _check_uses(self, site: Site, layers: Sequence[Linear]) -> None:
        """Raises InputError if the weight of the layers is used elsewhere, where the adapter would have to act, too."""
        own = {layer.node for layer in layers}
        for layer in layers:
            if others := [user for user, _ in layer.weight.uses() if user not in own and user.op_type != "Gather"]:
                raise self._refusal(
                    site, f"its weight is also used by node {others[0].name!r}, which is named otherwise"
                )

    def _at_norm(self, graph: ir.Graph, norm: Norm) -> _Place:
        """Returns the place before a norm. The adapter reads what the norm would give without it."""
        z, node = norm.z, norm.node
        if norm.adds:
            return _Place(lambda: node.outputs[0], partial(self._now, z), [(self._set_apart(graph, norm), 0)])
        before = ir.node(
            node.op_type,
            [*node.inputs],
            attributes=dict(node.attributes),
            domain=node.domain,
            name=f"{node.name}/before",
        )
        own, new = node.outputs[0], before.outputs[0]
        new.type, new.shape, new.name = own.type, own.shape, f"{own.name}/before"
        graph.insert_before(node, before)
        return _Place(lambda: new, partial(self._now, z), [(node, 0)])

    def _set_apart(self, graph: ir.Graph, norm: Norm) -> ir.Node:
        """Makes a norm of a sum, which another node added itself until now. Returns the new node."""
        node = norm.node
        if (known := self._apart.get(node)) is not None:
            return known
        plain, weights = _PLAIN[node.op_type]
        apart = ir.node(
            plain, [norm.z, *node.inputs[2 : 2 + weights]], attributes=dict(node.attributes), name=f"{node.name}/apart"
        )
        own, new = node.outputs[0], apart.outputs[0]
        new.type, new.shape, new.name = own.type, own.shape, f"{own.name}/apart"
        for user, index in list(own.uses()):
            user.replace_input_with(index, new)
        graph.insert_after(node, apart)
        self._apart[node] = apart
        return apart

    def _insert(self, graph: ir.Graph, site: Site, operator: Operator, place: _Place, use: int) -> None:
        y = place.y()
        values: dict[str, Callable[[], ir.Value]] = {
            "u": place.u,
            "y": lambda: y,
            "x": lambda: self._read_by(site, site.residual, use),
            "h": lambda: self._output(site, site.output, use),
        }
        if unknown := [name for name in operator.reads if name not in values]:
            raise self._refusal(site, f"the adapter reads {unknown[0]!r}, which a finished graph does not offer")
        read = {name: values[name]() for name in operator.reads}
        features = self._info.features(site)
        for name, value in read.items():
            _describe(value, features.inputs if name == "u" else features.outputs, graph)
        _describe(y, features.outputs, graph)
        self._count += 1
        marker = ir.Node(
            DOMAIN,
            SITE,
            inputs=[*read.values(), y],
            attributes=ir.convenience.convert_attributes(marker_attributes(site, operator, features)),
            num_outputs=1,
            name=f"{site.name}/{operator.op_type}/{self._count}",
        )
        out = marker.outputs[0]
        out.type, out.shape, out.name = y.type, y.shape, f"{marker.name}/out"
        graph.append(marker)
        for user, index in place.users:
            user.replace_input_with(index, out)
        if site.port is not Port.INPUT:
            first = next((value for value, now in self._replaced.items() if now is y), y)
            self._replaced[first] = out

    def _read_by(self, site: Site, path: str, use: int) -> ir.Value:
        reader = self._modules.reader_of(path, use)
        if reader is None:
            raise self._refusal(site, f"the graph does not show the input of {path!r}, which the adapter reads")
        if isinstance(reader, Norm):
            return self._now(reader.z)
        node, index = reader
        value = node.inputs[index]
        assert value is not None
        return value

    def _output(self, site: Site, path: str, use: int) -> ir.Value:
        layers = self._modules.linear.get(path, [])
        if use >= len(layers):
            raise self._refusal(site, f"the graph does not show the output of {path!r}, which the adapter reads")
        return self._now(layers[use].y)


def _insert_head(graph: ir.Graph, path: str, layer: Linear) -> None:
    """Replaces a layer of the task head by a marker."""
    u, y = layer.u, layer.y
    _describe(u, layer.features[0], graph)
    marker = ir.Node(
        DOMAIN, HEAD, inputs=[u], attributes=[ir.AttrString("module", path)], num_outputs=1, name=f"{path}/{HEAD}"
    )
    out = marker.outputs[0]
    out.type, out.shape, out.name, y.name = y.type, y.shape, y.name, f"{y.name}/replaced"
    graph.append(marker)
    ir.convenience.replace_all_uses_with(y, out, replace_graph_outputs=True)
    # Nothing reads what the layer gave.
    while (node := y.producer()) is not None and all(not output.uses() for output in node.outputs):
        value = node.inputs[0]
        graph.remove(node, safe=True)
        if node is layer.entry[0] or value is None:
            break
        y = value


def _input(layer: Linear) -> ir.Value:
    return layer.u


def _describe(value: ir.Value, features: int, graph: ir.Graph) -> None:
    """Gives a value the dtype and the shape [batch, tokens, features], if the graph does not say them."""
    if value.dtype is None:
        value.dtype = _float_of(graph.inputs, graph.outputs)
    if value.shape is None:
        first = graph.inputs[0].shape
        # Gemm takes the tokens of all rows one after the other.
        flat = any(node is not None and node.op_type == "Gemm" for node in (value.producer(), *value.consumers()))
        value.shape = ir.Shape([None, features] if flat else [None if first is None else first[0], None, features])


def _float_of(*values: Iterable[ir.Value]) -> ir.DataType:
    found = [value.dtype for group in values for value in group if value.dtype is not None]
    return next((dtype for dtype in found if dtype.is_floating_point()), ir.DataType.FLOAT)
