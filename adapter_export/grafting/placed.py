"""Reads a graph and adapters, and puts the adapters into the graph: all of a graft but writing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapter_export.bundle.adapter_file import adapter_tensors, tensors_by_operator
from adapter_export.bundle.manifest import SiteInfo
from adapter_export.bundle.modes import Mode
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.checkpoints.problem_types import with_problem_type
from adapter_export.checkpoints.weights import weights_sha256
from adapter_export.errors import InputError
from adapter_export.export.bank import Bank
from adapter_export.export.lower import Lowered, all_sites, lower, share_tensors
from adapter_export.export.modes import union_of_sites
from adapter_export.export.storage import Constants, Overridable, Storage
from adapter_export.export.trace import Trace
from adapter_export.grafting.dialects import Dialect
from adapter_export.grafting.foreign import CONFIG, ForeignGraph, ForeignModel, open_model
from adapter_export.grafting.verify import verify, verify_head
from adapter_export.merging.model_folder import ModelFolder, read_model_folder
from adapter_export.merging.weights import read_weight_headers
from adapter_export.methods.contract import Operator
from adapter_export.naming import check_adapter_name
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.json_files import read_json
from adapter_export.sites import Site

# A graft changes no weights, so no adapter can be merged.
_MODES = (Mode.SWAPPABLE, Mode.EMBEDDED, Mode.BANK)


@dataclass(frozen=True)
class GraftRequest:
    """What a caller wants, checked as far as that is possible without reading files.

    Attributes:
        graph: The file of the graph, or its folder.
        adapters: Folders of the checkpoints by the names of the adapters.
        mode: How the graph holds them.
        model: Folder of the base model, whose weights are compared; None for no comparison.
    """

    graph: Path
    adapters: Mapping[str, Path]
    mode: Mode
    model: Path | None

    @classmethod
    def parse(
        cls, graph: str | Path, adapters: Mapping[str, str | Path], *, mode: str, model: str | Path | None
    ) -> GraftRequest:
        """Returns the request. Raises InputError if the mode or the number of adapters is wrong."""
        wanted = Mode.parse(mode, "mode")
        if wanted not in _MODES:
            raise InputError(f"--mode {mode}: expected one of {', '.join(_MODES)}: a graft leaves weights as they are")
        if not adapters or (wanted is Mode.EMBEDDED and len(adapters) != 1):
            expected = "one adapter" if wanted is Mode.EMBEDDED else "at least one adapter"
            raise InputError(f"--adapter: expected {expected} in mode {wanted}, found {len(adapters)}")
        folders = {check_adapter_name(name): Path(folder) for name, folder in adapters.items()}
        return cls(Path(graph), folders, wanted, None if model is None else Path(model))

    @property
    def folders(self) -> list[Path]:
        """All paths that are read."""
        return [self.graph, *self.adapters.values(), *([] if self.model is None else [self.model])]


@dataclass(frozen=True)
class Placed:
    """A model with adapters.

    Attributes:
        foreign: The model as it was. The nodes of its graphs have been changed.
        adapters: The adapters by name.
        graphs: The graphs with adapters, by file name.
        head: Tensors of the graph's own task head by their full names; empty without one.
        verified: Whether the weights at the places were compared with those of a model folder.
    """

    foreign: ForeignModel
    adapters: Mapping[str, Adapter]
    graphs: Mapping[str, Lowered]
    head: Mapping[str, np.ndarray]
    verified: bool

    @property
    def sites(self) -> tuple[SiteInfo, ...]:
        """The sites of all graphs."""
        return all_sites(self.graphs.values())


def place(request: GraftRequest, progress: Callable[[str], None]) -> Placed:
    """Reads the graphs and the adapters, compares weights if there is a model folder, and places the adapters.

    Args:
        request: What is wanted.
        progress: Called with a description of each step when it begins.

    Raises:
        InputError: A graph or an adapter is wrong, or an adapter acts at a place that the graphs do not show.
    """
    from adapter_export.grafting.heads import head_tensors

    progress("reading the graph")
    model = None if request.model is None else existing_folder(request.model, "model")
    folder = None if model is None else _folder(model)
    foreign = open_model(request.graph, folder, "" if model is None else weights_sha256(model))
    adapters = {name: _loaded(folder, foreign) for name, folder in request.adapters.items()}
    sites = union_of_sites(adapters.values())
    modules = next(iter(foreign.graphs.values())).modules
    head = head_tensors(modules, foreign.info.head)
    storage, graphs = _storage(adapters, request.mode), dict[str, Lowered]()
    progress("placing the adapters" if folder is None else "comparing weights and placing the adapters")
    for role, graph in foreign.graphs.items():
        # An encoder's graph may compute a part of the decoder, whose sites the decoder's graph then has not.
        placed = {(site.module, site.port) for site in all_sites(graphs.values())}
        own = {site: stack for site, stack in sites.items() if (site.module, site.port.value) not in placed}
        if folder is not None:
            verify(own, graph.modules, graph.packed, folder)
            verify_head(foreign.info.head, graph.modules, folder)
        graphs[role] = _lowered(graph, foreign, own, storage, head)
    if request.mode is Mode.SWAPPABLE:
        graphs = share_tensors(graphs)
    return Placed(foreign, adapters, graphs, head, folder is not None)


def _lowered(
    graph: ForeignGraph,
    foreign: ForeignModel,
    sites: Mapping[Site, Sequence[Operator]],
    storage: Storage,
    head: Mapping[str, np.ndarray],
) -> Lowered:
    """Returns a graph with the adapters at its sites. All sites must be places of the graph."""
    from adapter_export.export.passes import run
    from adapter_export.export.passes.keep_logits import KeepLogits
    from adapter_export.grafting.insert_markers import InsertMarkers
    from adapter_export.grafting.join import keep_outputs
    from adapter_export.grafting.mark_logits import MarkLogits

    run(graph.model, InsertMarkers(sites, graph.modules, graph.packed, foreign.info), MarkLogits(), KeepLogits())
    keep_outputs(graph.model, graph.outputs)
    last = foreign.info.head[-1] if foreign.info.head else None
    return lower(Trace(graph.model, _axes(graph, foreign.dialect)), sites, storage, head, last)


def _folder(model: Path) -> ModelFolder:
    config = read_json(model / CONFIG)
    return read_model_folder(model, config, read_weight_headers(model, config))


def _axes(graph: ForeignGraph, dialect: Dialect) -> dict[str, dict[int, str]]:
    """Returns this package's names of the dynamic axes of the graph's inputs."""
    names = dialect.axes
    return {
        str(value.name): {axis: names[str(dim)] for axis, dim in enumerate(value.shape or ()) if str(dim) in names}
        for value in graph.model.graph.inputs
    }


def _loaded(folder: Path, foreign: ForeignModel) -> Adapter:
    return with_problem_type(load_adapter(folder, foreign.info, task=foreign.task), dict(foreign.config))


def _storage(adapters: Mapping[str, Adapter], mode: Mode) -> Storage:
    if mode is Mode.EMBEDDED:
        (adapter,) = adapters.values()
        return Constants(adapter_tensors(adapter))
    if mode is Mode.BANK:
        return Bank([tensors_by_operator(adapter) for adapter in adapters.values()])
    return Overridable()
