"""The tensors that stand for no adapter."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adapter_export.bundle.manifest import Manifest


def no_adapter_tensors(manifest: Manifest, own_head: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All tensors of the graph as they are without an adapter, by name: the base model's outputs.

    A tensor of a site has one value repeated, named dims taken as 1. A task head is `own_head`, the base model's;
    without one there are no labels, and its named dims are 0.
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
    """Returns the tensors of no adapter that the bundle has to store in a file, as the graph cannot give them.

    These are all of them where adapter tensors are required inputs, and in a bank the base model's own task head, which
    is not one repeated value.

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
