"""How adapters are stacked in a bank, row by row, in graphs and in memory alike.

A tensor of dims [d, k] is stacked as [rows, d, k], a vector [d] as [rows, 1, d], so that rows picked for a batch
broadcast over its sequence. Row 0 holds no adapter. Each *kind* of tensors (`ia3`, `bottleneck_relu`, `head`) has rows
of its own, and a table `<kind>.rows` [slots] that tells which row an adapter of a slot has: an adapter without tensors
of a kind has row 0, so that a thousand vectors beside ten matrices do not take a thousand matrices' room.

In the graph: `adapter_ids` int64 [batch], a slot for each row of the batch, 0 for no adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from adapter_export.bundle.adapter_file import HEAD_SLUG

NO_ADAPTER = 0
Dims = Sequence[int | str]


def kind_of(tensor: str) -> str:
    """The kind of a tensor, by its name `<site>.<kind>.<tensor>`."""
    return tensor.split(".")[-2]


def table_of(kind: str) -> str:
    """Name of a kind's table, int64 [slots]."""
    return f"{kind}.rows"


def padding_of(name: str, dims: Dims) -> float:
    """What fills a row beyond the adapter's own sizes, so that its result stays exactly its own.

    Zeros in bottlenecks: act(0) times 0 is added. Of the labels that a head has not, the logits are -inf: a softmax
    gives them 0, and no argmax finds them.
    """
    is_labels = kind_of(name) == HEAD_SLUG and len(dims) == 1 and isinstance(dims[0], str)
    return -np.inf if is_labels else 0.0


def row_shape(dims: Iterable[int | str], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of one row; sizes: of the named dims."""
    shape = tuple(dim if isinstance(dim, int) else sizes[dim] for dim in dims)
    return (1, *shape) if len(shape) == 1 else shape


def fill_row(row: np.ndarray, tensor: np.ndarray, padding: float) -> None:
    """Write a tensor of these sizes or smaller ones into its row."""
    own = tensor[np.newaxis] if tensor.ndim == 1 else tensor
    if own.shape != row.shape:
        row[...] = padding
    row[tuple(map(slice, own.shape))] = own


def named_sizes(dims: Dims, shape: Sequence[int]) -> dict[str, int]:
    """What the named dims of a tensor are in one of this shape."""
    return {dim: size for dim, size in zip(dims, shape, strict=True) if isinstance(dim, str)}
