"""The tensors that stand for no adapter."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adapter_export.bundle.adapter_format import numpy_dtype
from adapter_export.bundle.manifest import Manifest


def no_adapter_tensors(manifest: Manifest, own_head: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All tensors of the graph as they are without an adapter, by name: the base model's outputs.

    A tensor of a site has one value repeated, named dims taken as 1. A task head is `own_head`, the base model's;
    without one there are no labels, and its named dims are 0.
    """
    return {
        name: own_head[name].astype(numpy_dtype(info.dtype))
        if name in own_head
        else np.full(
            [dim if isinstance(dim, int) else int(info.default is not None) for dim in info.shape],
            info.default or 0.0,
            numpy_dtype(info.dtype),
        )
        for name, info in manifest.tensors.items()
    }
