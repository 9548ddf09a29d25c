"""Flexible heads of AdapterHub's `...AdapterModel` classes: those that a transformers class has too, and the others.

`heads.npz` (see README.md): per case a base model, an adapter with its head, and the logits that the library computes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapter_export.checkpoints.folder import checkpoint_task, load_adapter, read_checkpoint
from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.heads import complete_head
from adapter_export.models.injection import inject
from tests.goldens.packed import unpacked

ABOUT, ARRAYS = unpacked(Path(__file__).with_name("heads.npz"))
CASES = ABOUT["cases"]
COMPUTED = [case for case in CASES if "-refused-" not in case]
TOLERANCE = 5e-6
TASKS = {
    "gpt2-causal": "causal-lm",
    "llama-causal": "causal-lm",
    "t5-seq2seq": "seq2seq-lm",
    "vit": "image-classification",
}
LANGUAGE = ("gpt2-causal", "llama-causal", "t5-seq2seq")
# case -> the field that is named.
REFUSED = {
    "bert-refused-choice": "field 'head_type': 'multiple_choice' is not supported, as no such model is exported",
    "bert-refused-masked": "field 'head_type': 'masked_lm' is not supported",
    "bert-refused-pooler": "field 'use_pooler': False is not what the classifier of a bert model has, expected True",
    "bert-refused-qa": "field 'head_type': 'question_answering' is not supported",
    "bert-refused-tagging": "field 'head_type': 'tagging' is not supported",
    "gpt2-refused-causal": "field 'config': a causal_lm head of 2 layers in a gpt2 model is not supported",
    "llama-refused-bias": "field 'bias': True is not what the classifier of a llama model has, expected False",
    "roberta-refused-activation": "field 'activation_function': 'gelu' is not what the classifier of a roberta model",
}


def named(prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in ARRAYS.items() if name.startswith(prefix)}


def checkpoint(case: str, folder: Path) -> Path:
    """The case's files, as the library saved them; a refused head's without its values, beside another's adapter."""
    about = CASES[case]
    shapes = about.get("head", {})
    same = case if case in COMPUTED else about["model"]
    (folder / "adapter_config.json").write_text(json.dumps(CASES[same]["config"]))
    (folder / "head_config.json").write_text(json.dumps(about["head_config"]))
    save_file(named(f"{same}.adapter."), folder / "adapter.safetensors")
    head = named(f"{case}.head.") or {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(head, folder / "model_head.safetensors")
    return folder


def base_of(case: str, folder: Path, task: str) -> BaseModel:
    """The case's base model, in float64, with the language model's output layer that the library's class lacks."""
    import torch

    model = CASES[case]["model"]
    same = case if case in COMPUTED else model
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CASES[same]["base"]))
    weights = named(f"{model}.base.")
    if case in LANGUAGE:
        weights["lm_head.weight"] = ARRAYS[f"{case}.head.heads.t.0.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    labels = ["a", "b", "c"] if task.endswith("classification") else None
    return load_base(folder, task, labels=labels, dtype=torch.float64)


def inputs(case: str) -> dict[str, Any]:
    import torch

    found = named(f"{CASES[case]['model']}.input.")
    return {name: torch.from_numpy(a if name == "pixel_values" else a.astype(np.int64)) for name, a in found.items()}


@pytest.mark.parametrize("case", COMPUTED)
def test_a_head_that_transformers_has_too(case: str, tmp_path: Path) -> None:
    import torch

    folder = checkpoint(case, tmp_path)
    task = checkpoint_task(read_checkpoint(folder))
    assert task == TASKS.get(case, "text-classification")
    base = base_of(case, tmp_path / "base", task)
    adapter = load_adapter(folder, base.info)
    assert adapter.labels == (None if case in (*LANGUAGE, "bert-multilabel") else ("no", "so so", "yes"))
    inject(base.module, adapter)
    with torch.no_grad():
        found = base.module(**inputs(case)).logits.numpy()
    difference = np.abs(found - ARRAYS[f"{case}.logits"])
    mask = named(f"{CASES[case]['model']}.input.").get("attention_mask")
    if mask is not None and difference.shape[:2] == mask.shape:
        difference = difference[mask.astype(bool)]
    assert np.abs(ARRAYS[f"{case}.logits"]).max() > 0.1
    assert difference.max() < TOLERANCE


@pytest.mark.parametrize("case", REFUSED)
def test_any_other_head_is_refused_by_name(case: str, tmp_path: Path) -> None:
    folder = checkpoint(case, tmp_path)
    base = base_of(case, tmp_path / "base", TASKS.get(case.replace("-refused", ""), "text-classification"))
    with pytest.raises(InputError) as error:
        load_adapter(folder, base.info, task="")
    assert f"{folder / 'head_config.json'}: {REFUSED[case]}" in str(error.value)


def test_no_case_is_left_out() -> None:
    # Two layers with tanh are pooler and classifier: see test_default_heads.
    assert {*COMPUTED, *REFUSED, "bert-refused-classification"} == set(CASES)


@pytest.mark.parametrize("case", LANGUAGE)
def test_an_output_layer_of_its_own_is_refused(case: str, tmp_path: Path) -> None:
    folder = checkpoint(case, tmp_path)
    task = checkpoint_task(read_checkpoint(folder))
    assert task is not None
    base = base_of(case, tmp_path / "base", task)
    adapter = load_adapter(folder, base.info)
    complete_head(base.module, base.info.head, adapter)
    base.module.lm_head.weight.data[0] += 1e-6
    with pytest.raises(InputError, match="task head 'lm_head': differs from the base model's own"):
        complete_head(base.module, base.info.head, adapter)


def test_a_head_does_not_fit_a_model_of_another_task(tmp_path: Path) -> None:
    folder = checkpoint("gpt2-causal", tmp_path)
    base = base_of("gpt2", tmp_path / "base", "text-classification")
    with pytest.raises(InputError, match="field 'head_type': 'causal_lm' does not fit GPT2ForSequenceClassification"):
        load_adapter(folder, base.info)
