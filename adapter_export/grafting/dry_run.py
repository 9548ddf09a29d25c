"""`adapter-export graft --dry-run`: everything that a graft checks, and where the adapters would be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adapter_export.checkpoints.planned import AdapterPlan, plan_of
from adapter_export.grafting.placed import GraftRequest, place
from adapter_export.outputs.folder import check_output
from adapter_export.outputs.notes import gathered_notes
from adapter_export.reading.links import follows_links


@dataclass(frozen=True)
class GraftPlan:
    """What a graft would do.

    Attributes:
        output: Folder that it would write.
        graphs: The files of the graphs.
        dialect: How the nodes of the graphs are named.
        mode: How the bundle would hold its adapters.
        task: Task of the bundle.
        model_type: Architecture of the model.
        verified: Whether the weights at the places were compared with those of a model folder.
        adapters: The adapters, with their sites.
        sites: Number of different sites of all adapters.
        notes: What the graft would tell beside its result.
    """

    output: Path
    graphs: tuple[Path, ...]
    dialect: str
    mode: str
    task: str
    model_type: str
    verified: bool
    adapters: tuple[AdapterPlan, ...]
    sites: int
    notes: tuple[str, ...]


@follows_links("graph", "model", "adapters")
def plan_graft(
    graph: str | Path,
    adapters: Mapping[str, str | Path],
    output: str | Path,
    *,
    mode: str = "swappable",
    model: str | Path | None = None,
    force: bool = False,
    follow_links: bool = False,
) -> GraftPlan:
    """Does everything that `graft` does, with the same errors, but writes nothing.

    Args:
        graph: The file of the graph, or its folder.
        adapters: Folders of the checkpoints by the names of the adapters.
        output: Folder that the graft would write.
        mode: `swappable`, `embedded` or `bank`.
        model: Folder of the base model that the graph was made from.
        force: Whether the graft may replace an earlier output.
        follow_links: Whether symbolic links in the given folders may lead out of them.

    Returns:
        What would be done.

    Raises:
        InputError: The graft would find bad input.
        OutputExists: `output` exists already.
    """
    with gathered_notes() as notes:
        request = GraftRequest.parse(graph, adapters, mode=mode, model=model)
        check_output(output, force, inputs=request.folders)
        placed = place(request, lambda _text: None)
    return GraftPlan(
        Path(output),
        placed.foreign.files,
        placed.foreign.dialect.name,
        request.mode,
        placed.foreign.task,
        placed.foreign.info.model_type,
        placed.verified,
        tuple(plan_of(name, adapter) for name, adapter in placed.adapters.items()),
        len(placed.sites),
        tuple(notes),
    )
