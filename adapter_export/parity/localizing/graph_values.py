"""A graph whose inner values can be read: finds the places in it, and adds values to its outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.architectures.renames import canonical
from adapter_export.bundle.graphs import is_cache
from adapter_export.bundle.manifest import Manifest, SiteRole
from adapter_export.grafting.dialects import dialect_of
from adapter_export.grafting.modules import first_uses
from adapter_export.naming import DOMAIN
from adapter_export.reading.onnx_files import read_model
from adapter_export.sites import Port, Site

if TYPE_CHECKING:
    import onnx_ir as ir

BEFORE, AFTER, OUTPUT, INPUT = "before the adapter", "after the adapter", "output", "input"


@dataclass(frozen=True)
class Place:
    """A value that the graph and PyTorch both have.

    Attributes:
        graph: File of the graph.
        value: Name of the value in it.
        name: Name of the site, path of the module as the graph tells it, or name of the model's output.
        part: BEFORE or AFTER at a site; OUTPUT or INPUT of a module.
        use: Which use of the module it is, from 0, if the model runs it several times.
        uses: How often this graph uses the module.
        final: Whether it is an output of the model.
    """

    graph: str
    value: str
    name: str
    part: str = OUTPUT
    use: int = 0
    uses: int = 1
    final: bool = False


class GraphValues:
    """One graph of a bundle.

    Attributes:
        file: Its file name.
        places: The places in it, in the order of computation.
    """

    def __init__(self, bundle: Path, file: str, manifest: Manifest) -> None:
        """Reads the graph, without weights in other files, and inlines the functions of adapters.

        Raises:
            InputError: It is no ONNX file.
        """
        import onnx_ir as ir
        from onnx_ir.passes.common import InlinePass

        self.file = file
        proto = read_model(bundle / file)
        dialect = dialect_of(proto)
        self._model = ir.serde.deserialize_model(proto)
        sites = list(_sites(self._model, manifest, file))
        InlinePass()(self._model)
        ir.external_data.set_base_dir(self._model.graph, bundle)
        graph = self._model.graph
        self._order = {node: number for number, node in enumerate(graph)}
        # Nodes that no output depends on are left out: their values are right or wrong without any effect.
        self._live = _live(graph)
        self._values = {str(value.name): value for node in self._live for value in node.outputs if value.name}
        self._serialized: bytes | None = None
        self._given = {*manifest.graphs[file].given}
        self._carrying: dict[str, bool] = {}
        modules: dict[str, Place] = {}
        if dialect is not None:
            named = {node: dialect.path_of(node) for node in graph}
            first = first_uses(set(named.values()))
            uses = self._module_uses(named, first, manifest.base.model_type)
            modules = {
                place.value: place for place in [*self._module_inputs(named, uses), *self._module_outputs(named, uses)]
            }
        finals = [
            Place(file, str(value.name), str(value.name), final=True)
            for value in graph.outputs
            if not is_cache(str(value.name))
        ]
        # What an adapter reads is often the output of the module before it, which is the better name.
        before = [place for place in sites if place.part == BEFORE]
        after = [place for place in sites if place.part == AFTER]
        found = {place.value: place for place in [*before, *modules.values(), *after]}
        known = [place for value, place in found.items() if value in self._values]
        known += [place for place in finals if place.value in self._values]
        self.places = sorted(known, key=lambda place: (self._position(place.value), place.final))

    def _position(self, value: str) -> int:
        return self._order[self._producer(value)] if value in self._values else len(self._order)

    def _producer(self, value: str) -> ir.Node:
        node = self._values[value].producer()
        assert node is not None
        return node

    def _module_uses(
        self, named: Mapping[ir.Node, str], first: Mapping[str, str], model_type: str
    ) -> dict[str, tuple[str, int, int]]:
        """Returns for each path in the graph, containers included: the module, which of its uses it is, and how many
        there are.
        """
        uses: dict[str, list[str]] = {}
        for path in dict.fromkeys(outer for node in self._live for outer in _and_outer(named[node])):
            uses.setdefault(_first_of(path, first), []).append(path)
        return {
            path: (canonical(model_type, whole), number, len(paths))
            for whole, paths in uses.items()
            for number, path in enumerate(paths)
        }

    def _module_outputs(
        self, named: Mapping[ir.Node, str], uses: Mapping[str, tuple[str, int, int]]
    ) -> Iterator[Place]:
        """Yields the last value of each module that nodes outside of it read, containers before what they contain."""
        outputs = {id(value) for value in self._model.graph.outputs}
        last: dict[str, ir.Value] = {}
        for node in self._live:
            for value in node.outputs:
                users = [user for user, _ in value.uses() if user.op_type != "Shape" and user in self._live]
                for outer in _and_outer(named[node]):
                    if id(value) in outputs or any(not _inside(named[user], outer) for user in users):
                        last[outer] = value
        for path in sorted(last, key=lambda path: path.count(".")):
            name, use, count = uses[path]
            yield Place(self.file, str(last[path].name), name, OUTPUT, use, count)

    def _module_inputs(self, named: Mapping[ir.Node, str], uses: Mapping[str, tuple[str, int, int]]) -> Iterator[Place]:
        """Yields the value that each module without modules inside of it reads first."""
        containers = {outer for path in uses for outer in _and_outer(path)[:-1]}
        seen = set(containers)
        for node in self._live:
            path = named[node]
            for value in node.inputs if path and path not in seen else ():
                maker = None if value is None else value.producer()
                if maker is not None and named[maker] != path and value is not None and self._carries(value):
                    name, use, count = uses[path]
                    seen.add(path)
                    yield Place(self.file, str(value.name), name, INPUT, use, count)
                    break

    def node_of(self, value: str) -> str:
        """Returns the node that computes a value, in words."""
        if value not in self._values:
            return f"input {value!r}"
        node = self._producer(value)
        return f"{node.op_type}, which computes {value!r}"

    def reads(self, value: str) -> list[str]:
        """Returns the values that the node of a value reads and that are computed from the inputs of the model."""
        read = self._producer(value).inputs if value in self._values else ()
        return [str(item.name) for item in read if item is not None and self._carries(item)]

    def _carries(self, value: ir.Value) -> bool:
        """Whether a value is computed from the contents of the model's inputs.

        Constants, shapes, and tensors of adapters that a bank gathers are not: PyTorch has no values for them.
        """
        name, node = str(value.name), value.producer()
        if node is None:
            return False
        if name not in self._carrying:
            self._carrying[name] = node.op_type not in ("Shape", "Size") and any(
                item is not None and (self._is_given(item) or self._carries(item)) for item in node.inputs
            )
        return self._carrying[name]

    def _is_given(self, value: ir.Value) -> bool:
        return value.name in self._given

    def constant(self, name: str) -> np.ndarray | None:
        """Returns the value of an initializer; None if there is none of this name."""
        value = self._model.graph.initializers.get(name)
        if value is None or value.const_value is None:
            return None
        array: np.ndarray = value.const_value.numpy()
        return array

    def behind(self, value: str, agreed: Collection[str]) -> list[str]:
        """Returns the values between agreeing values and a value, which is the last, in the order of computation."""
        pending, found = [value], {value}
        while pending:
            new = {name for name in self.reads(pending.pop()) if name not in agreed} - found
            found |= new
            pending += new
        return sorted(found, key=self._position)

    def next_known(self, value: str, known: Collection[str]) -> set[str]:
        """Returns the first values among `known`, and the outputs of the graph, that are computed from a value."""
        pending, seen, found = [value], {value}, set[str]()
        outputs = {str(item.name) for item in self._model.graph.outputs}
        while pending:
            name = pending.pop()
            found |= {name} & outputs
            for user in (user for user, _ in self._values[name].uses() if user in self._live):
                for output in user.outputs:
                    name = str(output.name)
                    if name in known:
                        found.add(name)
                    elif name and name not in seen:
                        seen.add(name)
                        pending.append(name)
        return found

    def with_outputs(self, names: Collection[str]) -> bytes:
        """Returns the graph with these values as further outputs. Weights in other files stay there."""
        import onnx
        import onnx_ir as ir

        if self._serialized is None:
            self._serialized = ir.to_proto(self._model).SerializeToString()
        own = {value.name for value in self._model.graph.outputs}
        added = onnx.ModelProto()
        added.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in own)
        # Messages of protobuf that are written one after the other are merged: repeated fields are appended.
        whole: bytes = self._serialized + added.SerializeToString()
        return whole


def _sites(model: ir.Model, manifest: Manifest, file: str) -> Iterator[Place]:
    """Yields the places before and after the adapters of each site.

    Several adapters of different operators may be at one site, one after the other.
    """
    sites = {
        f"{name}.{info.op_name}": name
        for info in manifest.sites
        if info.role is SiteRole.ADAPTER
        for name in (Site(info.module, Port(info.port)).name,)
    }
    nodes: dict[tuple[str, int], list[ir.Node]] = {}
    for node in model.graph:
        name, _, number = (node.name or "").partition("#")
        if node.domain == DOMAIN and name in sites:
            nodes.setdefault((sites[name], int(number or 1) - 1), []).append(node)
    uses = Counter(site for site, _ in nodes)
    for (site, use), own in nodes.items():
        arguments = [value.name for value in model.functions[own[0].op_identifier()].inputs]
        y = own[0].inputs[arguments.index("y")]
        if y is not None and y.producer() is not None:
            yield Place(file, str(y.name), site, BEFORE, use, uses[site])
        yield Place(file, str(own[-1].outputs[0].name), site, AFTER, use, uses[site])


def _live(graph: ir.Graph) -> dict[ir.Node, None]:
    """Returns the nodes that outputs of the graph depend on, in their order."""
    pending = [value.producer() for value in graph.outputs]
    found: set[ir.Node] = set()
    while pending:
        node = pending.pop()
        if node is not None and node not in found:
            found.add(node)
            pending += [value.producer() for value in node.inputs if value is not None]
    return {node: None for node in graph if node in found}


def _first_of(path: str, first: Mapping[str, str]) -> str:
    """Returns the path of the first use of a module, which may be a container of modules with nodes."""
    if path in first:
        return first[path]
    inner = next((own for own in first if own.startswith(f"{path}.")), path)
    return ".".join(first.get(inner, inner).split(".")[: path.count(".") + 1])


def _and_outer(path: str) -> list[str]:
    parts = path.split(".") if path else []
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _inside(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.")
