"""What the library `adapters` computed with its own checkpoints, and what we compute with the same files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adapter_export import tasks
from adapter_export.checkpoints.folder import load_adapter, save_adapter
from adapter_export.checkpoints.tensor_files import read_tensors
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import inject

GOLDENS = Path(__file__).parent / "adapterhub"
# Largest difference allowed where outputs are of order 1; measured: at most 7e-7, from rounding the stored outputs.
TOLERANCE = 5e-6

# case -> adapter parameters, counted by hand from d = 32, widths 8 (or 4), ffn 64 and the numbers of sites and heads.
CASES = {
    "bert-cls-pfeiffer-bin": 2 * (2 * 32 * 8 + 8 + 32) + 3 * 32 + 3,
    "bert-houlsby": 4 * (2 * 32 * 8 + 8 + 32),
    "bert-ia3": 2 * (32 + 32 + 64),
    "bert-learned-scaling": (2 * 32 * 4 + 4 + 32) + (2 * 32 * 8 + 8 + 32),
    "bert-leave-out": 2 * (2 * 32 * 8 + 8 + 32),
    "bert-ln-variants": 4 * (2 * 32 * 8 + 8 + 32 + 4 * 32 + 1),  # two norms, and the tensor that switches it on
    "bert-parallel": 2 * (2 * 32 * 8 + 8 + 32),
    "bert-pfeiffer": 2 * (2 * 32 * 8 + 8 + 32),
    "gpt2-houlsby": 4 * (2 * 32 * 8 + 8 + 32) + 99 * 32,
    "gpt2-ia3": 2 * (3 * 32 + 128) + 99 * 32,  # of the fused projection's three parts, queries are times 1
    "llama-houlsby": 4 * (2 * 32 * 8 + 8 + 32) + 99 * 32,
    "llama-pfeiffer": 2 * (2 * 32 * 8 + 8 + 32) + 99 * 32,
    "t5-houlsby": 8 * (2 * 32 * 8 + 8 + 32) + 99 * 32,
    "t5-ia3": 2 * (32 + 32 + 64) + 2 * (4 * 32 + 64) + 99 * 32,
}


def base_of(case: str) -> BaseModel:
    import torch

    model_class = json.loads((GOLDENS / case / "case.json").read_text())["model_class"]
    # The base of the classification case is a bare BertModel: its head is in the adapter.
    labels = ["a", "b", "c"] if model_class == "BertForSequenceClassification" else None
    task = tasks.of_architecture(model_class)
    assert task is not None
    return load_base(GOLDENS / case / "base", task, labels=labels, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES)
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
    assert adapter.parameters == CASES[case]


def test_no_case_is_left_out() -> None:
    assert {folder.name for folder in GOLDENS.iterdir()} == set(CASES)


WRITTEN_ALIKE = ["bert-houlsby", "bert-leave-out", "bert-ln-variants", "bert-pfeiffer", "llama-pfeiffer", "t5-houlsby"]


@pytest.mark.parametrize("case", WRITTEN_ALIKE)
def test_what_we_write_is_what_the_library_wrote(case: str, tmp_path: Path) -> None:
    info = base_of(case).info
    save_adapter(tmp_path, load_adapter(GOLDENS / case / "adapter", info), info, "")

    ours = read_tensors(tmp_path / "adapter.safetensors")
    (file,) = [
        *(GOLDENS / case / "adapter").glob("adapter.safetensors"),
        *(GOLDENS / case / "adapter").glob("pytorch_adapter.bin"),
    ]
    written = read_tensors(file)
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
    for site, site_adapter in adapter.sites.items():
        for name, tensor in site_adapter.tensors.items():
            np.testing.assert_array_equal(again.sites[site].tensors[name], tensor)
