"""Lowers a trace with markers to the graph of one mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.graphs import LOGITS_TO_KEEP
from adapter_export.bundle.manifest import AdapterTensorInfo, GraphInfo, SiteInfo, TensorInfo
from adapter_export.dtypes import DType
from adapter_export.export.bound_site import BoundSite
from adapter_export.export.passes import run
from adapter_export.export.storage import Constants, Storage
from adapter_export.export.trace import Trace
from adapter_export.methods.contract import Operator
from adapter_export.sites import Site

if TYPE_CHECKING:
    import onnx_ir as ir

# The graph's name, in place of the tracer's.
_GRAPH_NAME = "adapter_export"


@dataclass(frozen=True)
class Lowered:
    """The graph of one mode, and what the manifest says about it.

    Attributes:
        model: The graph, ready to be saved.
        inputs: Its inputs by name, without the adapter tensors.
        outputs: Its outputs by name.
        sites: Its sites.
    """

    model: ir.Model
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    sites: tuple[SiteInfo, ...]

    @property
    def info(self) -> GraphInfo:
        """What the manifest says of the graph itself."""
        return GraphInfo(self.inputs, self.outputs, LOGITS_TO_KEEP in self.model.graph.initializers)


def lower(
    trace: Trace,
    sites: Mapping[Site, Sequence[Operator]],
    storage: Storage | None = None,
    head_defaults: Mapping[str, np.ndarray] | None = None,
    last_head: str | None = None,
) -> Lowered:
    """Replaces the markers of a trace by functions and tensors. The trace is not changed.

    Args:
        trace: The trace.
        sites: Its sites and their operators.
        storage: Where the tensors are stored; None for a trace without markers.
        head_defaults: Tensors of the head without an adapter, by full name.
        last_head: The head layer whose outputs are the labels.

    Raises:
        InputError: The tensors of an adapter do not fit the graph, or the storage does not take its values.
    """
    from adapter_export.export.passes.attach_functions import AttachFunctions
    from adapter_export.export.passes.bind_markers import BindMarkers
    from adapter_export.export.passes.free_labels import FreeLabels
    from adapter_export.export.passes.name_axes import NameAxes
    from adapter_export.export.passes.strip_metadata import StripMetadata

    model = trace.model.clone()
    model.graph.name = _GRAPH_NAME
    model.producer_name, model.producer_version = "adapter-export", ""
    operators = {(site.name, operator.op_type): operator for site, stack in sites.items() for operator in stack}
    places: list[BoundSite] = []
    run(
        model,
        NameAxes(trace.axes),
        StripMetadata(),
        BindMarkers(operators, head_defaults or {}, last_head, storage or Constants({}), places),
        AttachFunctions(places),
        FreeLabels(places),
    )
    tensors = {slot.name for place in places for slot in place.slots.values()}
    reads = {(site.name, operator.op_name): site.reads for site, stack in sites.items() for operator in stack}
    return Lowered(
        model,
        {
            str(value.name): _info(value)
            for value in model.graph.inputs
            if value.name not in model.graph.initializers and value.name not in tensors
        },
        {str(value.name): _info(value) for value in model.graph.outputs},
        tuple(_site_info(place, reads.get((place.site, place.op_name), {})) for place in places),
    )


def share_tensors(graphs: Mapping[str, Lowered]) -> dict[str, Lowered]:
    """Gives every graph the adapter tensors of all of them, so that an adapter's file fits each graph of its bundle."""
    from adapter_export.export.passes.share_tensors import ShareTensors

    sites = all_sites(graphs.values())
    for lowered in graphs.values():
        run(lowered.model, ShareTensors(sites))
    return {file: replace(lowered, sites=sites) for file, lowered in graphs.items()}


def all_sites(graphs: Iterable[Lowered]) -> tuple[SiteInfo, ...]:
    """Returns the sites of several graphs, each once."""
    return tuple({tuple(site.tensors): site for lowered in graphs for site in lowered.sites}.values())


def _info(value: ir.Value) -> TensorInfo:
    assert value.dtype is not None
    assert value.shape is not None
    return TensorInfo(
        DType(value.dtype.numpy().name),
        tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape),
    )


def _site_info(place: BoundSite, reads: Mapping[str, str]) -> SiteInfo:
    return SiteInfo(
        module=place.module,
        port=place.port,
        role=place.role,
        op_type=place.function.op_type,
        op_name=place.op_name,
        method=place.method,
        tensors={
            slot.name: AdapterTensorInfo(DType(slot.default.dtype.name), slot.dims, slot.identity, slot.composition)
            for slot in place.slots.values()
        },
        reads=reads,
    )
