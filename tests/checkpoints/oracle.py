"""PEFT itself, which decides what its checkpoints mean."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from adapter_export.checkpoints.folder import load_adapter
from adapter_export.models.base_model import BaseModel
from adapter_export.models.injection import inject

CONFIG, WEIGHTS, BIN = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
# The two sides round differently by this at most, in float64.
TOLERANCE = 1e-12

Inputs = Mapping[str, np.ndarray]


def train(base: BaseModel, folder: Path, seed: int = 0, name: str = "default", **settings: Any) -> None:
    """Save an IA3 adapter of PEFT for the model to `folder`, every trained tensor random: vectors around 1, heads 0."""
    import peft
    import torch

    model = peft.get_peft_model(copy.deepcopy(base.module).float(), peft.IA3Config(**settings), adapter_name=name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = 0.3 * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise + 1.0 if "ia3_l" in parameter_name else noise)
    model.save_pretrained(folder)


def by_peft(base: BaseModel, folder: Path, inputs: Inputs) -> np.ndarray:
    """What PEFT computes with the checkpoint, in float64."""
    import peft

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unexpected keyword arguments|fan_in_fan_out is set")
        model = peft.PeftModel.from_pretrained(copy.deepcopy(base.module).double(), folder)
    return run(model.double().eval(), inputs)


def by_ours(base: BaseModel, folder: Path, inputs: Inputs) -> np.ndarray:
    """Likewise here."""
    module = copy.deepcopy(base.module).double()
    inject(module, load_adapter(folder, base.info))
    return run(module, inputs)


def run(model: Any, inputs: Inputs) -> np.ndarray:
    """The model's first output."""
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.no_grad():
        result = model(**{name: t.double() if t.is_floating_point() else t for name, t in tensors.items()})
    output: np.ndarray = result[0].numpy()
    return output


def assert_same(base: BaseModel, folder: Path, inputs: Inputs) -> None:
    """PEFT and we compute the same with the checkpoint, and not what the base model does."""
    expected, found = by_peft(base, folder, inputs), by_ours(base, folder, inputs)
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() <= TOLERANCE * scale
    off = run(copy.deepcopy(base.module).double(), inputs)
    assert off.shape != expected.shape or np.abs(expected - off).max() > 1e-3 * scale


def assert_same_tensors(found: Path, expected: Path) -> None:
    """The tensor files of two checkpoints hold the same: names, dtypes, shapes, bytes."""
    import ml_dtypes  # noqa: F401 (lets numpy know bfloat16)

    first, second = (
        {name: (t.dtype.name, t.shape, t.tobytes()) for name, t in load_file(folder / WEIGHTS).items()}
        for folder in (found, expected)
    )
    assert first == second


def edit_config(folder: Path, **changes: Any) -> None:
    """Set fields of the config; ... removes one."""
    config = {**json.loads((folder / CONFIG).read_text()), **changes}
    (folder / CONFIG).write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def edit_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
