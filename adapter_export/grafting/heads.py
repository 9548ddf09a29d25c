"""The task head of another tool's graph: its linear layers, whose weights become those of no adapter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adapter_export.errors import InputError
from adapter_export.grafting.modules import Modules
from adapter_export.grafting.stored_weights import bias_of, is_quantized, weight_rows
from adapter_export.naming import HEAD_OP, tensor_name


def head_layers(modules: Modules) -> tuple[str, ...]:
    """Returns the paths of the linear layers of a classifier outside of the base model, in the order of the graph.

    Raises:
        InputError: A layer is used several times, or its weight is quantized.
    """
    for path, layers in modules.outside.items():
        if len(layers) != 1 or is_quantized(layers[0]):
            reason = "is quantized" if len(layers) == 1 else "is used several times"
            raise InputError(f"graph: layer {path!r} of the task head {reason}, so that adapters cannot replace it")
    return tuple(modules.outside)


def head_tensors(modules: Modules, head: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the weights (out, in) and biases (out,) of head layers, float32, by their full names."""
    found: dict[str, np.ndarray] = {}
    for path in head:
        (layer,) = modules.outside[path]
        weight, bias = weight_rows(layer, slice(None)), bias_of(layer)
        found[tensor_name(path, HEAD_OP, "weight")] = weight.astype(np.float32)
        found[tensor_name(path, HEAD_OP, "bias")] = (np.zeros(len(weight)) if bias is None else bias).astype(np.float32)
    return found
