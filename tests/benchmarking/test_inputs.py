"""Inputs for a bundle: what its graphs take, padded as promised, nothing out of range."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from adapter_export.benchmarking.inputs import InputMaker
from adapter_export.bundle.manifest import read_manifest
from adapter_export.errors import InputError
from adapter_export.runtime.inputs import check_inputs
from tests.bundles import Exported


def maker(bundle: Path) -> InputMaker:
    return InputMaker(bundle, read_manifest(bundle))


def test_texts(swappable_bundle: Exported) -> None:
    made = maker(swappable_bundle.bundle)
    inputs = made.inputs(5, 16)
    check_inputs(inputs, read_manifest(swappable_bundle.bundle).inputs)
    config = json.loads((swappable_bundle.bundle / "config.json").read_text())
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert mask.sum(axis=1).tolist() == [16, 15, 14, 13, 12]
    assert made.tokens(5, 16) == mask.sum()
    assert (mask == (ids != config["pad_token_id"])).all()
    assert 0 <= ids.min() < ids.max() < config["vocab_size"]
    assert len(np.unique(ids)) > 10
    assert {name: value.tobytes() for name, value in made.inputs(5, 16).items()} == {
        name: value.tobytes() for name, value in inputs.items()
    }


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 1), (1, 9)])
def test_small_ones(batch: int, length: int, swappable_bundle: Exported) -> None:
    inputs = maker(swappable_bundle.bundle).inputs(batch, length)
    assert inputs["input_ids"].shape == (batch, length)
    assert inputs["attention_mask"].all()


def test_prompts(llama_bundle: Exported) -> None:
    config = json.loads((llama_bundle.bundle / "config.json").read_text())
    made = maker(llama_bundle.bundle)
    prompts = made.prompts(3, 8)
    assert [len(prompt) for prompt in prompts] == [8, 7, 6]
    assert all(config["pad_token_id"] not in prompt for prompt in prompts)
    assert made.longest == config["max_position_embeddings"]


def test_a_config_without_a_vocabulary(swappable_bundle: Exported, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle"))
    (bundle / "config.json").write_text(json.dumps({"vocab_size": "many"}))
    with pytest.raises(
        InputError, match=r"config\.json: field 'vocab_size': expected a whole number above 0, found 'm"
    ):
        maker(bundle)
