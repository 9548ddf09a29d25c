"""Saving graphs: single files while they are small, else with one weights file for all of a bundle's graphs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.export.lower import Lowered
from adapter_export.export.validate import check_saved

if TYPE_CHECKING:
    import onnx_ir as ir

# The weights of all graphs of a bundle.
WEIGHTS = "model.onnx.data"
# Graphs below this many bytes of weights, all of them together, are one file each, which browsers and viewers open most
# easily.
EXTERNAL_ABOVE_BYTES = 64 << 20
# With external data, tensors up to this size stay in the graph: adapter defaults do, at any usual hidden size.
INLINE_UP_TO_BYTES = 64 << 10


def save_graphs(graphs: Mapping[str, Lowered], folder: Path, weights: str = WEIGHTS) -> None:
    """Save graphs in `folder`, by file name, and check each with full shape inference.

    weights: the name of one file in `folder` that takes the large tensors of them all where the graphs are large; a
    tensor that several hold, or one holds several times, is stored there once. The graphs given stay as they are.
    Ensures: no two tensors are in memory at once beside what the graphs hold already.
    """
    import onnx_ir as ir

    # Copies of graphs share their tensors.
    models = {file: lowered.model.clone() for file, lowered in graphs.items()}
    values = [
        value
        for model in models.values()
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    ]
    if sum(_tensor(value).nbytes for value in values) > EXTERNAL_ABOVE_BYTES:
        _move_out([value for value in values if _tensor(value).nbytes > INLINE_UP_TO_BYTES], folder, weights)
    for file, model in models.items():
        ir.save(model, folder / file)
        check_saved(folder / file)


def save_graph(lowered: Lowered, path: Path) -> None:
    """Save one graph at `path`, its weights beside it as `<path>.data` where they are large; see `save_graphs`."""
    save_graphs({path.name: lowered}, path.parent, f"{path.name}.data")


def _move_out(values: Sequence[ir.Value], folder: Path, file: str) -> None:
    """Write the values' tensors to `file`, equal ones once, and leave references to them."""
    import onnx_ir as ir

    stored = dict(zip(values, _shared(values), strict=True))
    distinct = list(dict.fromkeys(stored.values()))
    places = ir.external_data.convert_tensors_to_external([_tensor(value) for value in distinct], folder, file)
    place_of = dict(zip(distinct, places, strict=True))
    for value, first in stored.items():
        place, tensor = place_of[first], _tensor(value)
        value.const_value = ir.ExternalTensor(
            file,
            place.offset,
            place.length,
            tensor.dtype,
            shape=tensor.shape,  # type: ignore[arg-type]
            name=str(value.name),
            base_dir=folder,
        )


def _shared(values: Sequence[ir.Value]) -> list[ir.Value]:
    """For each value the first one whose tensor has the same dtype and the same bytes, in whatever shape."""
    first: dict[object, ir.Value] = {}
    return [first.setdefault((_tensor(value).dtype, _digest(_tensor(value))), value) for value in values]


def _digest(tensor: ir.TensorProtocol) -> bytes:
    array = np.ascontiguousarray(tensor.numpy())
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest()


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value
