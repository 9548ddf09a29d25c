"""From a trace with markers to the graph of one mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.manifest import NUM_LABELS, AdapterTensorInfo, SiteInfo, TensorInfo
from adapter_export.export.passes.axes import name_axes
from adapter_export.export.passes.bind import Bound, bind, downstream
from adapter_export.export.passes.functions import attach_functions
from adapter_export.export.passes.metadata import strip_metadata
from adapter_export.export.storage import Constants, Overridable, Slot, Storage
from adapter_export.export.trace import Trace
from adapter_export.methods.contract import Operator
from adapter_export.sites import Site

if TYPE_CHECKING:
    import onnx_ir as ir

# The graph's name, in place of the tracer's.
_GRAPH_NAME = "adapter_export"


@dataclass(frozen=True)
class Lowered:
    """model: the graph of one mode, ready to be saved. The rest describes it for the manifest."""

    model: ir.Model
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    sites: tuple[SiteInfo, ...]


def lower(
    trace: Trace,
    sites: Mapping[Site, Sequence[Operator]],
    storage: Storage | None = None,
    head_defaults: Mapping[str, np.ndarray] | None = None,
    last_head: str | None = None,
) -> Lowered:
    """Give the traced markers their functions and tensors; the trace itself stays as it is.

    sites: as they were traced. storage: where tensors live, not needed for a trace without markers. head_defaults,
    last_head: see `passes.bind`.
    """
    model = trace.model.clone()
    model.graph.name = _GRAPH_NAME
    model.producer_name, model.producer_version = "adapter-export", ""
    name_axes(model, trace.axes)
    strip_metadata(model)
    operators = {(site.name, operator.op_type): operator for site, stack in sites.items() for operator in stack}
    places = bind(model.graph, operators, head_defaults or {}, last_head, storage or Constants({}))
    attach_functions(model, [place.function for place in places])
    _free_labels(model.graph, places)
    tensors = {slot.name for place in places for slot in place.slots.values()}
    reads = {(site.name, operator.slug): site.reads for site, stack in sites.items() for operator in stack}
    return Lowered(
        model,
        {
            str(value.name): _info(value)
            for value in model.graph.inputs
            if value.name not in model.graph.initializers and value.name not in tensors
        },
        {str(value.name): _info(value) for value in model.graph.outputs},
        tuple(_site_info(place, reads.get((place.site, place.kind), {})) for place in places),
    )


def share_tensors(graphs: Mapping[str, Lowered]) -> dict[str, Lowered]:
    """Give every graph the adapter tensors of all of them: those a graph does not read are there, and override nothing.

    An adapter's file then fits each graph of its bundle; ONNX Runtime refuses one with tensors that a graph has not.
    """
    sites = all_sites(graphs.values())
    for lowered in graphs.values():
        for site in sites:
            if site in lowered.sites:
                continue
            for name, info in site.tensors.items():
                shape = [dim if isinstance(dim, int) else 1 for dim in info.shape]
                default = np.full(shape, info.default or 0.0, info.dtype)
                Overridable().store(lowered.model.graph, Slot(name, info.shape, default, info.default))
    return {file: replace(lowered, sites=sites) for file, lowered in graphs.items()}


def all_sites(graphs: Iterable[Lowered]) -> tuple[SiteInfo, ...]:
    """The sites of several graphs, each once."""
    return tuple({tuple(site.tensors): site for lowered in graphs for site in lowered.sites}.values())


def _free_labels(graph: ir.Graph, places: Sequence[Bound]) -> None:
    """Downstream of a swappable head the number of labels is not known: say so instead of what was traced."""
    import onnx_ir as ir

    ends = [
        node.outputs[0]
        for node in graph
        for place in places
        if node.name == place.name and any(NUM_LABELS in slot.dims for slot in place.slots.values())
    ]
    for value in downstream(ends):
        if value.shape is not None and value.is_graph_output():
            value.shape = ir.Shape([*value.shape[:-1], NUM_LABELS])
        elif value.shape is not None:
            value.shape = None


def _info(value: ir.Value) -> TensorInfo:
    assert value.dtype is not None
    assert value.shape is not None
    return TensorInfo(
        value.dtype.numpy().name, tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
    )


def _site_info(place: Bound, reads: Mapping[str, str]) -> SiteInfo:
    return SiteInfo(
        module=place.module,
        port=place.port,
        op_type=place.function.op_type,
        method=place.method,
        tensors={
            slot.name: AdapterTensorInfo(slot.default.dtype.name, slot.dims, slot.identity)
            for slot in place.slots.values()
        },
        reads=reads,
    )
