"""Compares the weights at the places of adapters with those of a model folder: names alone prove nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.errors import InputError
from adapter_export.grafting.stored_weights import bias_of, is_quantized, weight_rows
from adapter_export.merging.rounding import STORED, widened
from adapter_export.reading.files import open_file
from adapter_export.sites import Port, Site

if TYPE_CHECKING:
    from adapter_export.grafting.modules import Linear, Modules
    from adapter_export.grafting.packed import PackedLinear
    from adapter_export.merging.model_folder import ModelFolder

# Largest difference of the same weights, relative to their norm: rounding to bfloat16, and to blocks of four bits. The
# weights of another layer differ by more than their own norm.
_ROUNDED, _QUANTIZED = 2**-7, 0.35
# Rows that are compared of each weight.
_ROWS = 64


def verify(sites: Iterable[Site], modules: Modules, packed: Mapping[str, PackedLinear], folder: ModelFolder) -> None:
    """Compares weights and biases of the modules at the sites.

    Raises:
        InputError: The weights at a site are not those of its module.
    """
    for module in dict.fromkeys(site.module for site in sites if site.port is not Port.NORM):
        if (part := packed.get(module)) is not None:
            sizes = list(part.sizes)
            begin = sum(part.sizes[path] for path in sizes[: sizes.index(module)])
            _compare(module, part.linear, begin, part.sizes[module], folder)
        else:
            for path in modules.linear_in(module):
                for layer in modules.linear[path]:
                    _compare(path, layer, 0, layer.features[1], folder)


def verify_head(head: Iterable[str], modules: Modules, folder: ModelFolder) -> None:
    """Compares weights and biases of the layers of a task head. Raises InputError as `verify`."""
    for path in head:
        (layer,) = modules.outside[path]
        _compare_with(path, path, layer, slice(0, layer.features[1]), folder)


def _compare(path: str, layer: Linear, begin: int, size: int, folder: ModelFolder) -> None:
    if path not in folder.modules:
        raise InputError(f"site {path}: the model folder {folder.folder} has no such module")
    _compare_with(path, folder.modules[path], layer, slice(begin, begin + size), folder)


def _compare_with(path: str, on_disk: str, layer: Linear, rows: slice, folder: ModelFolder) -> None:
    begin, size = rows.start, rows.stop - rows.start
    step = max(1, size // _ROWS)
    theirs = weight_rows(layer, slice(begin, begin + size, step))
    weight = stored(folder, f"{on_disk}.weight")
    ours = (weight.T if folder.transposed else weight)[::step]
    if theirs.shape != ours.shape or np.linalg.norm(theirs - ours) > largest_difference(layer) * np.linalg.norm(ours):
        raise InputError(
            f"site {path}: the weight of node {layer.node.name!r} is not that of {on_disk} in {folder.folder}"
        )
    bias = bias_of(layer)
    name = f"{on_disk}.bias"
    has_bias = name in folder.weights.where
    if has_bias != (bias is not None) or (
        bias is not None and np.abs(bias[begin : begin + size] - stored(folder, name)).max() > _ROUNDED
    ):
        raise InputError(f"site {path}: the bias at node {layer.node.name!r} is not that of {on_disk}")


def largest_difference(layer: Linear) -> float:
    """Returns the largest difference of a layer's weight from the same one on disk, relative to its norm."""
    return _QUANTIZED if is_quantized(layer) else _ROUNDED


def stored(folder: ModelFolder, name: str) -> np.ndarray:
    """Returns a tensor of the model folder in float64. Raises InputError if there is none of this name."""
    name = name if name in folder.weights.where else folder.weights.aliases.get(name, name)
    if name not in folder.weights.where:
        raise InputError(f"model {folder.folder}: expected a tensor {name!r}, found none")
    header, entry = folder.weights.files[folder.weights.where[name]], folder.weights.entry(name)
    with open_file(header.path, folder.folder) as file:
        file.seek(header.start + entry.begin)
        data = file.read(entry.size)
    return widened(np.frombuffer(data, STORED[entry.dtype]).reshape(entry.shape), entry.dtype)
