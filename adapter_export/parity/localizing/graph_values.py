"""A graph whose inner values can be read: finds the places in it, and adds values to its outputs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.graphs import is_cache
from adapter_export.bundle.manifest import Manifest, SiteRole
from adapter_export.grafting.dialects import Dialect, dialect_of
from adapter_export.parity.localizing.places import AFTER, BEFORE, ModulePlaces, Place, named_nodes, site_places
from adapter_export.reading.onnx_files import read_model
from adapter_export.sites import Port, Site

if TYPE_CHECKING:
    import onnx_ir as ir


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
        ir.external_data.set_base_dir(self._model.graph, bundle)
        self._serialized: bytes | None = None
        self._given = {*manifest.graphs[file].given}
        self._carrying: dict[str, bool] = {}
        graph = self._model.graph
        # Functions are still nodes here: they tell which nodes are those of adapters.
        places = self._found_places(manifest, dialect)
        InlinePass()(self._model)
        self._order = {node: number for number, node in enumerate(graph)}
        # Nodes that no output depends on are left out: their values are right or wrong without any effect.
        self._live = _live(graph)
        self._values = {str(value.name): value for node in self._live for value in node.outputs if value.name}
        known = [place for place in places if place.value in self._values]
        self.places = sorted(known, key=self._order_of)

    def _found_places(self, manifest: Manifest, dialect: Dialect | None) -> list[Place]:
        graph, file = self._model.graph, self.file
        sites = list(site_places(self._model, manifest, file))
        finals = [
            Place(file, str(value.name), str(value.name), final=True)
            for value in graph.outputs
            if not is_cache(str(value.name))
        ]
        inputs: list[Place] = []
        outputs: list[Place] = []
        if dialect is not None:
            modules = ModulePlaces(file, list(_live(graph)), named_nodes(graph, dialect), manifest.base.model_type)
            adapted = [Site(info.module, Port(info.port)) for info in manifest.sites if info.role is SiteRole.ADAPTER]
            inputs = list(modules.inputs(self._carries, {site.name: site.port for site in adapted}))
            outputs = list(modules.outputs(graph.outputs))
        # What an adapter reads is often the output of the module before it, which is the better name.
        before = [place for place in sites if place.part == BEFORE]
        after = [place for place in sites if place.part == AFTER]
        by_value = {place.value: place for place in [*before, *outputs, *after]}
        return [*by_value.values(), *inputs, *finals]

    def _order_of(self, place: Place) -> tuple[int, bool, bool]:
        return self._position(place.reader or place.value), not place.reader, place.final

    def _position(self, value: str) -> int:
        return self._order[self._producer(value)] if value in self._values else len(self._order)

    def _producer(self, value: str) -> ir.Node:
        node = self._values[value].producer()
        assert node is not None
        return node

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
