"""Saves a graph with adapters beside the weights that it had before, which are not rewritten."""

from __future__ import annotations

from pathlib import Path

from adapter_export.bundle.graphs import MODEL
from adapter_export.export.lower import Lowered
from adapter_export.export.validate import check_loads
from adapter_export.grafting.foreign import ForeignGraph
from adapter_export.merging.stream import copy_file


def save_graft(lowered: Lowered, foreign: ForeignGraph, folder: Path) -> None:
    """Saves the graph, and checks that ONNX Runtime loads it.

    The checker of ONNX is not asked: it refuses graphs of other tools for what they say about shapes.

    Args:
        lowered: The graph with adapters.
        foreign: The graph that it was made from.
        folder: The folder to save it in.

    Raises:
        InputError: ONNX Runtime refuses the graph.
        OSError: A file could not be written.
    """
    import onnx_ir as ir

    for file in foreign.data:
        place = folder / file.relative_to(foreign.path.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        copy_file(file, foreign.path.parent, place, lambda count: None)
    ir.save(lowered.model, folder / MODEL)
    check_loads(folder / MODEL, strict=False)
