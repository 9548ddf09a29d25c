"""`adapter-export graft`: puts adapters into a graph that another tool made, and writes a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from adapter_export.architectures.positions import longest_text_of
from adapter_export.bundle.adapter_file import adapter_tensors, tensors_by_operator
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import SLOTS, GraftInfo, GraphInfo, Manifest
from adapter_export.bundle.modes import Mode
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.checkpoints.weights import weights_sha256
from adapter_export.dtypes import DType
from adapter_export.errors import InputError
from adapter_export.export.bank import Bank
from adapter_export.export.bundle import finish_bundle
from adapter_export.export.lower import Lowered, lower
from adapter_export.export.modes import union_of_sites
from adapter_export.export.storage import Constants, Overridable, Storage
from adapter_export.export.trace import Trace
from adapter_export.export.validate import contrib_operators
from adapter_export.grafting.companions import copy_others
from adapter_export.grafting.foreign import ForeignGraph, open_graph
from adapter_export.grafting.saving import save_graft
from adapter_export.naming import check_adapter_name
from adapter_export.outputs.folder import output_folder
from adapter_export.reading.hashes import sha256
from adapter_export.reading.links import follows_links

Progress = Callable[[str], None]
# Grafts change no weights, so an adapter cannot be merged.
_MODES = (Mode.SWAPPABLE, Mode.EMBEDDED, Mode.BANK)


@follows_links("graph", "model", "adapters")
def graft(
    graph: str | Path,
    adapters: Mapping[str, str | Path],
    output: str | Path,
    *,
    mode: str = "swappable",
    model: str | Path | None = None,
    slots: int = SLOTS,
    force: bool = False,
    progress: Progress | None = None,
    follow_links: bool = False,
) -> Manifest:
    """Puts adapters into a finished graph, without torch, and without changing or rewriting its weights.

    The places are found by the names of the graph's nodes, see `grafting.dialects`. Names do not prove that a node
    holds the weights of the layer that it is named after. With `model`, the weights of each place are compared with
    those of the model folder.

    Args:
        graph: The file of the graph, or its folder.
        adapters: Folders of the checkpoints by the names of the adapters.
        output: Folder of the bundle.
        mode: `swappable`, `embedded` (exactly one adapter) or `bank`.
        model: Folder of the base model that the graph was made from.
        slots: In mode bank, how many adapters a runtime has in memory at once.
        force: Whether to replace a bundle that exists at `output`.
        progress: Called with a description of each step when it begins.
        follow_links: Whether symbolic links in the given folders may lead out of them.

    Returns:
        The manifest of the bundle.

    Raises:
        InputError: The input is wrong, or an adapter acts at a place that the graph does not show. `output` has not
            changed then.
        OutputExists: `output` exists already.
    """
    say = progress or (lambda text: None)
    wanted = Mode.parse(mode, "mode")
    if wanted not in _MODES:
        raise InputError(f"--mode {mode}: expected one of {', '.join(_MODES)}; a graft leaves the weights as they are")
    if not adapters or (wanted is Mode.EMBEDDED and len(adapters) != 1):
        expected = "one adapter" if wanted is Mode.EMBEDDED else "at least one adapter"
        raise InputError(f"--adapter: expected {expected} in mode {wanted}, found {len(adapters)}")
    for name in adapters:
        check_adapter_name(name)
    path, base = Path(graph), None if model is None else Path(model)
    folders = [path, *map(Path, adapters.values()), *([] if base is None else [base])]
    with output_folder(output, force, inputs=folders) as written:
        say("reading the graph")
        foreign = open_graph(path, base, weights_sha256(base) if base is not None else "")
        loaded = {name: load_adapter(folder, foreign.info, task=foreign.task) for name, folder in adapters.items()}
        say("placing the adapters")
        lowered = _graph(foreign, loaded, wanted)
        say("writing the bundle")
        save_graft(lowered, foreign, written.folder)
        copy_others(foreign.path.parent, base, written.folder, foreign.path.name)
        manifest = finish_bundle(
            written.folder,
            _manifest(foreign, lowered, wanted, slots, bool(base)),
            loaded,
            {},
            base,
            {name: Path(folder) for name, folder in adapters.items()},
        )
        written.commit()
        return manifest


def _graph(foreign: ForeignGraph, adapters: Mapping[str, Adapter], mode: Mode) -> Lowered:
    from adapter_export.export.passes import run
    from adapter_export.grafting.insert_markers import InsertMarkers

    sites = union_of_sites(adapters.values())
    run(foreign.model, InsertMarkers(sites, foreign.modules, foreign.packed, foreign.info))
    return lower(Trace(foreign.model, {}), sites, _storage(adapters, mode))


def _storage(adapters: Mapping[str, Adapter], mode: Mode) -> Storage:
    if mode is Mode.EMBEDDED:
        (adapter,) = adapters.values()
        return Constants(adapter_tensors(adapter))
    if mode is Mode.BANK:
        return Bank([tensors_by_operator(adapter) for adapter in adapters.values()])
    return Overridable()


def _manifest(foreign: ForeignGraph, lowered: Lowered, mode: Mode, slots: int, verified: bool) -> Manifest:
    return Manifest(
        project_version=version("adapter-export"),
        mode=mode,
        task=foreign.task,
        dtype=DType.FLOAT32,
        opset=lowered.model.graph.opset_imports[""],
        base=foreign.info,
        graphs={MODEL: GraphInfo(lowered.inputs, lowered.outputs)},
        sites=lowered.sites,
        adapters=(),
        files={},
        slots=slots,
        card=True,
        longest_text=longest_text_of(foreign.config) if foreign.config else None,
        contrib=contrib_operators(lowered.model),
        graft=GraftInfo(foreign.dialect.name, sha256(foreign.path), verified),
    )
