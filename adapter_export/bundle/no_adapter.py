"""The tensors that stand for no adapter."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adapter_export.bundle.manifest import Manifest


def no_adapter_tensors(manifest: Manifest, own_head: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns all adapter tensors of the graph without an adapter, by name. With them, it computes the base model.

    Tensors of a site are one repeated value; the size of their named dims is 1. The task head is the base model's own.
    Without one there are no labels, so the size of the named dims of the head is 0.

    Args:
        manifest: The manifest of the bundle.
        own_head: Tensors of the base model's own head by full name; empty without one.
    """
    return {
        name: own_head[name].astype(info.dtype.numpy)
        if name in own_head
        else np.full(
            [dim if isinstance(dim, int) else int(info.default is not None) for dim in info.shape],
            info.default or 0.0,
            info.dtype.numpy,
        )
        for name, info in manifest.tensors.items()
    }


def stored_tensors(manifest: Manifest, own_head: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors of no adapter that the bundle must store in a file, because they are not in the graph.

    If adapter tensors are required inputs, these are all tensors. In a bank, they are the base model's own task head,
    which is not one repeated value.

    Args:
        manifest: The manifest of the bundle.
        own_head: Tensors of the base model's own head by full name; see `no_adapter_tensors`.
    """
    tensors = no_adapter_tensors(manifest, own_head)
    if manifest.bind.required:
        return tensors
    if manifest.mode.per_row and manifest.labels is not None:
        return {name: tensors[name] for name in own_head}
    return {}
