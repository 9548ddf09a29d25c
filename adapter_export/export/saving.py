"""Saves graphs: small graphs as single files, large ones with one file for the weights of all graphs of a bundle."""

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

# The file with the weights of all graphs of a bundle.
WEIGHTS = "model.onnx.data"
# If the weights of all graphs together are smaller than this, each graph is one file. Browsers and viewers open such
# files most easily.
EXTERNAL_ABOVE_BYTES = 64 << 20
# With external data, tensors up to this size stay in the graph. Adapter defaults are smaller at any usual hidden size.
INLINE_UP_TO_BYTES = 64 << 10


def save_graphs(graphs: Mapping[str, Lowered], folder: Path, weights: str = WEIGHTS) -> None:
    """Saves graphs, and checks each with full shape inference.

    Large graphs store their large tensors in one common file. Equal tensors, of one graph or of several, are stored
    there once. `graphs` is not changed. At most one additional tensor is in memory at a time.

    Args:
        graphs: The graphs by file name.
        folder: The folder to save them in.
        weights: Name of the common file.

    Raises:
        InputError: ONNX Runtime refuses a graph; see `validate.check_saved` for other errors.
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
    """Saves one graph at `path`. Large weights are stored next to it as `<path>.data`, see `save_graphs`."""
    save_graphs({path.name: lowered}, path.parent, f"{path.name}.data")


def _move_out(values: Sequence[ir.Value], folder: Path, file: str) -> None:
    """Writes the tensors of values to a file, equal ones once, and replaces them by references to the file."""
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
    """Returns for each value the first one whose tensor has the same dtype and the same bytes, in any shape."""
    first: dict[object, ir.Value] = {}
    return [first.setdefault((_tensor(value).dtype, _digest(_tensor(value))), value) for value in values]


def _digest(tensor: ir.TensorProtocol) -> bytes:
    array = np.ascontiguousarray(tensor.numpy())
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest()


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value
