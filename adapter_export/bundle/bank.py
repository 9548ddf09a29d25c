"""How adapters are stacked in a bank, row by row, in graphs and in memory alike.

A tensor of dims [d, k] is stacked as [rows, d, k], a vector [d] as [rows, 1, d], so that rows picked for a batch
broadcast over its sequence. Row 0 holds no adapter. The tensors of each operator (`ia3`, `bottleneck_relu`, `head`)
have rows of their own, and a table `<op_name>.rows` [slots] maps the slot of an adapter to its row. An adapter without
tensors of an operator has row 0 there, so that a thousand vectors and ten matrices do not take the memory of a thousand
matrices.

In the graph: `adapter_ids` int64 [batch], a slot for each row of the batch, 0 for no adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from adapter_export.bundle.manifest import SiteRole

NO_ADAPTER = 0
Dims = Sequence[int | str]


def rows_table(op_name: str) -> str:
    """Name of the table of an operator, int64 [slots]: the row of each slot."""
    return f"{op_name}.rows"


def padding_of(role: SiteRole, dims: Dims) -> float:
    """What fills a row beyond the adapter's own sizes, so that its result stays exactly its own.

    Tensors of adapters are padded with zeros: act(0) times 0 is added. Heads with fewer labels are padded with a bias
    of -inf, so padded labels get probability 0 and never win argmax.
    """
    is_bias = role is SiteRole.HEAD and len(dims) == 1 and isinstance(dims[0], str)
    return -np.inf if is_bias else 0.0


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
