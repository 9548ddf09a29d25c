"""Saves graphs with adapters beside the weights that they had before, which are not rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adapter_export.export.lower import Lowered
from adapter_export.export.validate import check_loads
from adapter_export.grafting.foreign import ForeignModel
from adapter_export.merging.stream import copy_file


def save_graft(graphs: Mapping[str, Lowered], foreign: ForeignModel, folder: Path) -> None:
    """Saves the graphs, and checks that ONNX Runtime loads them.

    The checker of ONNX is not asked: it refuses graphs of other tools for what they say about shapes.

    Args:
        graphs: The graphs with adapters, by file name.
        foreign: The model that they were made from.
        folder: The folder to save them in.

    Raises:
        InputError: ONNX Runtime refuses a graph.
        OSError: A file could not be written.
    """
    import onnx_ir as ir

    for file in foreign.data:
        place = folder / file.relative_to(foreign.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        copy_file(file, foreign.folder, place, lambda count: None)
    for name, lowered in graphs.items():
        ir.save(lowered.model, folder / name)
        check_loads(folder / name, strict=False)
