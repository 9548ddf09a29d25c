"""What the library `adapters` computed with its own checkpoints, and what we compute with the same files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from adapter_export import tasks
from adapter_export.basemodel import BaseModel, load_base
from adapter_export.checkpoints.folder import load_adapter, save_adapter
from adapter_export.errors import InputError
from adapter_export.injection import inject

GOLDENS = Path(__file__).parent / "adapterhub"
# Largest difference allowed where outputs are of order 1; measured: at most 7e-7, from rounding the stored outputs.
TOLERANCE = 5e-6

# case -> adapter parameters, counted by hand from d = 32, widths 8 (or 4) and the numbers of sites and head values.
SUPPORTED = {
    "bert-cls-pfeiffer-bin": 2 * (2 * 32 * 8 + 8 + 32) + 3 * 32 + 3,
    "bert-houlsby": 4 * (2 * 32 * 8 + 8 + 32),
    "bert-learned-scaling": (2 * 32 * 4 + 4 + 32) + (2 * 32 * 8 + 8 + 32),
    "bert-leave-out": 2 * (2 * 32 * 8 + 8 + 32),
    "bert-pfeiffer": 2 * (2 * 32 * 8 + 8 + 32),
    "gpt2-houlsby": 4 * (2 * 32 * 8 + 8 + 32) + 99 * 32,
    "llama-houlsby": 4 * (2 * 32 * 8 + 8 + 32) + 99 * 32,
    "llama-pfeiffer": 2 * (2 * 32 * 8 + 8 + 32) + 99 * 32,
    "t5-houlsby": 8 * (2 * 32 * 8 + 8 + 32) + 99 * 32,
}
# case -> the setting that is refused, by name and value.
UNSUPPORTED = {
    "bert-ia3": "field 'architecture': 'lora' is not supported",
    "bert-ln-variants": "field 'ln_before': True is not supported",
    "bert-parallel": "field 'is_parallel': True is not supported",
    "gpt2-ia3": "field 'architecture': 'lora' is not supported",
    "t5-ia3": "field 'architecture': 'lora' is not supported",
}


def base_of(case: str) -> BaseModel:
    import torch

    model_class = json.loads((GOLDENS / case / "case.json").read_text())["model_class"]
    # The base of the classification case is a bare BertModel: its head is in the adapter.
    labels = ["a", "b", "c"] if model_class == "BertForSequenceClassification" else None
    task = tasks.of_architecture(model_class)
    assert task is not None
    return load_base(GOLDENS / case / "base", task, labels=labels, dtype=torch.float64)


@pytest.mark.parametrize("case", SUPPORTED)
def test_outputs_equal_those_of_the_library(case: str) -> None:
    import torch

    base = base_of(case)
    adapter = load_adapter(GOLDENS / case / "adapter", base.info)
    golden = np.load(GOLDENS / case / "io.npz")
    inputs = {name: torch.from_numpy(golden[name]) for name in golden.files if name not in ("on", "off")}
    output = json.loads((GOLDENS / case / "case.json").read_text())["output"]

    injection = inject(base.module, adapter)
    with torch.no_grad():
        on = base.module(**inputs)[output].numpy()
        with injection.disabled():
            off = base.module(**inputs)[output].numpy()

    # T5's output follows its decoder's inputs, and a classifier's the sentence: neither has padding.
    padded = on.shape[:-1] == golden["attention_mask"].shape
    real = golden["attention_mask"].astype(bool) if padded else np.ones(on.shape[:-1], bool)
    assert np.abs(golden["on"] - golden["off"])[real].max() > 0.1, "a golden adapter must matter"
    assert np.abs(on - golden["on"])[real].max() < TOLERANCE
    assert np.abs(off - golden["off"])[real].max() < TOLERANCE
    assert adapter.parameters == SUPPORTED[case]


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(case: str) -> None:
    with pytest.raises(InputError) as error:
        load_adapter(GOLDENS / case / "adapter", base_of(case).info)
    assert UNSUPPORTED[case] in str(error.value)
    assert "adapter_config.json" in str(error.value)


def test_every_case_is_either_supported_or_refused() -> None:
    assert {folder.name for folder in GOLDENS.iterdir()} == {*SUPPORTED, *UNSUPPORTED}


@pytest.mark.parametrize("case", ["bert-houlsby", "bert-leave-out", "bert-pfeiffer", "llama-pfeiffer", "t5-houlsby"])
def test_what_we_write_is_what_the_library_wrote(case: str, tmp_path: Path) -> None:
    info = base_of(case).info
    save_adapter(tmp_path, load_adapter(GOLDENS / case / "adapter", info), info, "")

    ours = load_file(tmp_path / "adapter.safetensors")
    written = load_file(GOLDENS / case / "adapter/adapter.safetensors")
    theirs = {name.replace(".adapters.t.", ".adapters.default."): tensor for name, tensor in written.items()}
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.tobytes() == theirs[name].tobytes(), name

    config = json.loads((tmp_path / "adapter_config.json").read_text())
    expected = json.loads((GOLDENS / case / "adapter/adapter_config.json").read_text())
    assert config == {**expected, "name": "default"}


def test_widths_that_differ_by_layer_and_learned_scaling_survive_saving(tmp_path: Path) -> None:
    case = "bert-learned-scaling"
    info = base_of(case).info
    adapter = load_adapter(GOLDENS / case / "adapter", info)
    save_adapter(tmp_path, adapter, info, "")

    config = json.loads((tmp_path / "adapter_config.json").read_text())["config"]
    assert config["reduction_factor"] == {"0": 8, "default": 4}
    assert config["scaling"] == 1.0, "the learned factor is folded into the tensors"
    again = load_adapter(tmp_path, info)
    for site, block in adapter.blocks.items():
        for name, tensor in block.tensors.items():
            np.testing.assert_array_equal(again.blocks[site].tensors[name], tensor)
