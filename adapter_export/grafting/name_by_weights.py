"""Tells the modules of nodes that have lost their names, by comparing their weights with those of the model folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adapter_export.architectures.renames import canonical
from adapter_export.grafting.dialects import Dialect
from adapter_export.grafting.modules import Linear, multiplies
from adapter_export.grafting.stored_weights import is_quantized, weight_rows
from adapter_export.grafting.verify import largest_difference, stored

if TYPE_CHECKING:
    import onnx_ir as ir

    from adapter_export.merging.model_folder import ModelFolder

# Rows that are compared of each weight. A place of an adapter is compared with more rows later.
_ROWS = 8
_MATRIX_RANK = 2
_WEIGHT = ".weight"
# The layer of a language model's logits.
_LOGITS = "lm_head"


def name_by_weights(graph: ir.Graph, dialect: Dialect, folder: ModelFolder) -> None:
    """Gives nodes that multiply by a weight, and tell no module, the name of the module that has the weight.

    Tools that quantize a graph replace such nodes, and may drop their metadata. A node whose weight is that of several
    modules, or of none, stays as it is.

    Args:
        graph: The graph. Metadata of its nodes is added.
        dialect: How its nodes are named. Nothing is done if that is not by metadata.
        folder: The model folder.
    """
    unnamed = [node for node in graph if multiplies(node) and not dialect.path_of(node)]
    if not dialect.scopes or not unnamed:
        return
    prefix = f"{folder.prefix.rstrip('.')}." if folder.prefix else ""
    nested = any(dialect.path_of(node).startswith(prefix) for node in graph) if prefix else False
    known = _weights(folder, prefix if nested else "")
    for node in unnamed:
        layer = Linear(node, (node, 0), node.outputs[0])
        if not is_quantized(layer) and (layer.weight.shape is None or len(layer.weight.shape) != _MATRIX_RANK):
            continue
        found = {path for path, theirs in known.get(layer.features[::-1], ()) if _same(layer, theirs)}
        if len(found) == 1:
            dialect.name_node(node, *found)


def _weights(folder: ModelFolder, prefix: str) -> dict[tuple[int, ...], list[tuple[str, np.ndarray]]]:
    """Returns rows of the weight of each linear layer with its path in the graph, by the weight's shape (out, in).

    A layer of logits that shares the table of tokens is among them.
    """
    info = folder.info(None)
    layers = [(f"{prefix}{path}", folder.modules[path]) for path in info.inputs]
    outside = [name.removesuffix(_WEIGHT) for name in folder.outside if name.endswith(_WEIGHT)]
    rest = [(canonical(folder.model_type, on_disk), on_disk) for on_disk in outside]
    rest += [(_LOGITS, folder.modules[path]) for path in info.embeddings]
    found: dict[tuple[int, ...], list[tuple[str, np.ndarray]]] = {}
    for path, on_disk in (*layers, *rest):
        if len(folder.weight_shape(on_disk)) == _MATRIX_RANK:
            weight = stored(folder, f"{on_disk}{_WEIGHT}")
            weight = weight.T if folder.transposed and (path, on_disk) in layers else weight
            found.setdefault(weight.shape, []).append((path, weight[_some(len(weight))]))
    return found


def _same(layer: Linear, theirs: np.ndarray) -> bool:
    ours = weight_rows(layer, _some(layer.features[1]))
    return bool(np.linalg.norm(ours - theirs) <= largest_difference(layer) * np.linalg.norm(theirs))


def _some(rows: int) -> slice:
    return slice(0, rows, max(1, rows // _ROWS))
