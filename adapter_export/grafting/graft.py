"""`adapter-export graft`: puts adapters into a graph that another tool made, and writes a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from adapter_export.bundle.manifest import SHARES_CACHE, SLOTS, GraftInfo, Manifest
from adapter_export.checkpoints.problem_types import stated
from adapter_export.dtypes import WEIGHT_DTYPES, DType
from adapter_export.export.bundle import finish_bundle
from adapter_export.export.validate import contrib_operators
from adapter_export.grafting.companions import copy_others
from adapter_export.grafting.placed import GraftRequest, Placed, place
from adapter_export.grafting.saving import save_graft
from adapter_export.naming import HEAD_OP, tensor_name
from adapter_export.outputs.folder import output_folder
from adapter_export.reading.hashes import sha256
from adapter_export.reading.links import follows_links

Progress = Callable[[str], None]


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
    request = GraftRequest.parse(graph, adapters, mode=mode, model=model)
    with output_folder(output, force, inputs=request.folders) as written:
        placed = place(request, say)
        say("writing the bundle")
        foreign = placed.foreign
        save_graft(placed.graphs, foreign, written.folder)
        copy_others(
            foreign.folder, request.model, written.folder, foreign.files[0].name, genai=not request.mode.per_row
        )
        manifest = finish_bundle(
            written.folder,
            _manifest(placed, request, slots),
            placed.adapters,
            placed.head,
            request.model,
            request.adapters,
        )
        written.commit()
        return manifest


def _manifest(placed: Placed, request: GraftRequest, slots: int) -> Manifest:
    foreign, models = placed.foreign, [lowered.model for lowered in placed.graphs.values()]
    contrib = tuple(sorted({name for model in models for name in contrib_operators(model)}))
    return Manifest(
        project_version=version("adapter-export"),
        mode=request.mode,
        task=foreign.task,
        dtype=_dtype(placed),
        opset=models[0].graph.opset_imports[""],
        base=foreign.info,
        graphs={file: lowered.info for file, lowered in placed.graphs.items()},
        sites=placed.sites,
        adapters=(),
        files={},
        labels=_labels(placed),
        problem_type=stated(foreign.config) if foreign.info.head else None,
        slots=slots,
        quantize=foreign.quantize,
        # The graph decides it, whatever the adapters state.
        task_asked=True,
        card=True,
        longest_text=foreign.longest_text,
        contrib=contrib,
        graft=GraftInfo(
            foreign.dialect.name,
            sha256(foreign.files[0]),
            placed.verified,
            # GenAI's builder gives its attention no mask, but the number of tokens of each row.
            SHARES_CACHE in contrib,
            {file.name: sha256(file) for file in foreign.files[1:]},
        ),
    )


def _dtype(placed: Placed) -> DType:
    """Returns the dtype with the fewest bits among the adapter tensors, which have the dtypes of the graph's values."""
    found = {tensor.dtype for site in placed.sites for tensor in site.tensors.values()}
    return next(dtype for dtype in reversed(WEIGHT_DTYPES) if dtype in found)


def _labels(placed: Placed) -> tuple[str, ...] | None:
    """Returns the class names of the graph's own task head, or placeholders; None without a head."""
    if not (head := placed.foreign.info.head):
        return None
    count = len(placed.head[tensor_name(head[-1], HEAD_OP, "weight")])
    names = placed.foreign.info.labels
    return names if names is not None and len(names) == count else tuple(f"LABEL_{i}" for i in range(count))
