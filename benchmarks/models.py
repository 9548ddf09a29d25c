"""What the benchmarks run on: MiniLM with random adapters of the usual sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from adapter_export.checkpoints.adapter import Adapter, HeadLayer
from adapter_export.checkpoints.folder import save_adapter
from adapter_export.methods import registry
from adapter_export.methods.placement import placed
from adapter_export.models.base_model import BaseModel


def random_adapter(base: BaseModel, method: str, labels: int = 2, seed: int = 0, **options: object) -> Adapter:
    """An adapter whose every tensor is random, with a random head."""
    rng = np.random.default_rng(seed)
    chosen = registry.get(method)
    settings = chosen.Options(**options)
    sites = {}
    for site, operator in placed(chosen, base.info, settings).items():
        initial = chosen.initial(operator, base.info.features(site), settings, rng)
        tensors = {k: (v + rng.normal(0, 0.1, v.shape)).astype(np.float32) for k, v in initial.tensors.items()}
        sites[site] = replace(initial, tensors=tensors)
    head = {
        name: HeadLayer(
            rng.normal(0, 0.1, (labels, base.info.hidden_size)).astype(np.float32), np.zeros(labels, np.float32)
        )
        for name in base.info.head
    }
    return Adapter(
        method, sites, head, tuple(f"class {i}" for i in range(labels)) if head else None, "text-classification"
    )


def saved(folder: Path, adapter: Adapter, base: BaseModel) -> Path:
    """Write the adapter's checkpoint into a new folder."""
    folder.mkdir(parents=True)
    save_adapter(folder, adapter, base.info, "all-MiniLM-L6-v2")
    return folder
