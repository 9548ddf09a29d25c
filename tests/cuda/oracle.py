"""What PyTorch computes: in float64 on the CPU, which is right, and in float32 on the GPU, which has the same means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adapter_export.bundle.manifest import read_manifest
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.models.base_model import load_base
from adapter_export.models.injection import inject
from tests.bundles import Exported

# Largest error of float32 to the root mean square of the outputs, as docs/parity.md has it.
FLOAT32 = 1e-4


def in_pytorch(exported: Exported, adapter: str | None, dtype: str = "float64", device: str = "cpu") -> Any:
    """The model of a bundle in PyTorch, the adapter injected."""
    import torch

    base = load_base(exported.base, read_manifest(exported.bundle).task, dtype=getattr(torch, dtype))
    if adapter is not None:
        inject(base.module, load_adapter(exported.adapters[adapter], base.info))
    return base.module.to(device)


def first_output(module: Any, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The first output of a forward pass."""
    import torch

    device = next(module.parameters()).device
    with torch.no_grad():
        outputs = module(**{name: torch.from_numpy(value.copy()).to(device) for name, value in inputs.items()})
    found: np.ndarray = outputs[0].cpu().numpy()
    return found


def given(exported: Exported, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of the inputs that the bundle's graph takes. Types of tokens are 0."""
    wanted = read_manifest(exported.bundle).inputs
    zeros = np.zeros_like(inputs["input_ids"])
    return {name: inputs.get(name, zeros) for name in wanted}


def error(found: np.ndarray, wanted: np.ndarray, kept: np.ndarray | None = None) -> float:
    """max|found - wanted| / rms(wanted), of the positions that are kept: the e(O) of docs/parity.md."""
    assert found.shape == wanted.shape
    if kept is not None:
        found, wanted = found[kept], wanted[kept]
    return float(np.abs(found - wanted).max() / np.sqrt(np.square(wanted).mean()))
