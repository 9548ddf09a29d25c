"""The layout of adapters in a bank, which is the same in graphs and in memory.

A tensor of dims [d, k] is stacked as [rows, d, k], a vector [d] as [rows, 1, d], so that rows selected for a batch
broadcast over its sequence. Row 0 holds no adapter. The tensors of each operator (`ia3`, `bottleneck_relu`, `head`)
have their own rows, and a table `<op_name>.rows` [slots] maps the slot of an adapter to its row. An adapter without
tensors of an operator has row 0 there. So a thousand vectors and ten matrices do not take the memory of a thousand
matrices.

The graph has an input `adapter_ids`, int64 [batch]: the slot for each row of the batch, 0 for no adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from adapter_export.bundle.manifest import SiteRole

NO_ADAPTER = 0
Dims = Sequence[int | str]


def rows_table(op_name: str) -> str:
    """Returns the name of the table of an operator, int64 [slots], which contains the row of each slot."""
    return f"{op_name}.rows"


def padding_of(role: SiteRole, dims: Dims) -> float:
    """Returns the value that fills a row beyond the sizes of an adapter. It does not change the adapter's outputs.

    Tensors of adapters are padded with zeros, so act(0) times 0 is added. Heads with fewer labels are padded with a
    bias of -inf, so padded labels have probability 0 and are never the largest.

    Args:
        role: Whether the tensor belongs to an adapter or to a task head.
        dims: Dims of the tensor.
    """
    is_bias = role is SiteRole.HEAD and len(dims) == 1 and isinstance(dims[0], str)
    return -np.inf if is_bias else 0.0


def row_shape(dims: Iterable[int | str], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Returns the shape of one row.

    Args:
        dims: Dims of the tensor.
        sizes: Sizes of the named dims.
    """
    shape = tuple(dim if isinstance(dim, int) else sizes[dim] for dim in dims)
    return (1, *shape) if len(shape) == 1 else shape


def fill_row(row: np.ndarray, tensor: np.ndarray, padding: float) -> None:
    """Writes a tensor into a row of its sizes or larger ones, and fills the rest with `padding`."""
    own = tensor[np.newaxis] if tensor.ndim == 1 else tensor
    if own.shape != row.shape:
        row[...] = padding
    row[tuple(map(slice, own.shape))] = own


def named_sizes(dims: Dims, shape: Sequence[int]) -> dict[str, int]:
    """Returns the sizes of the named dims of a tensor that has this shape."""
    return {dim: size for dim, size in zip(dims, shape, strict=True) if isinstance(dim, str)}
