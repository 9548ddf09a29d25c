"""Flexible heads with the library's default settings, and static ones beside them.

`default_heads.npz` (see README.md): per case a base model, an adapter with its head, and the logits that the library
computes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError
from adapter_export.inspection.folders import describe_adapter
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.heads import complete_head
from adapter_export.models.injection import inject
from tests.goldens.packed import unpacked

ABOUT, ARRAYS = unpacked(Path(__file__).with_name("default_heads.npz"))
CASES = ABOUT["cases"]
TOLERANCE = 5e-6
WITHOUT = "--task features exports the adapter's body without this head"
# case -> the field that is named, and why no class of transformers computes the same.
REFUSED = {
    "bert-no-activation": "field 'activation_function': None is not what the classifier of a bert model has",
    "bert-pooled-two": "field 'use_pooler': True is not what the classifier of a bert model has, expected False",
    "bert-three-layers": "field 'layers': 3 is not what the classifier of a bert model has, expected",
    "deberta-v2-default": "field 'activation_function': 'tanh' is not what the classifier of a deberta-v2 model has, "
    "expected 'gelu'",
    "distilbert-default": "field 'activation_function': 'tanh' is not what the classifier of a distilbert model has, "
    "expected 'relu'",
    "electra-default": "field 'activation_function': 'tanh' is not what the classifier of a electra model has, "
    "expected 'gelu'",
    "gpt2-default": "field 'layers': 2 is not what the classifier of a gpt2 model has, expected 1",
    "llama-default": "field 'layers': 2 is not what the classifier of a llama model has, expected 1",
    "roberta-one-layer": "field 'layers': 1 is not what the classifier of a roberta model has, expected 2",
}
COMPUTED = sorted(set(CASES) - set(REFUSED))
PROBLEM_TYPES = {
    "bart-static": None,
    "bert-multilabel": "multi_label_classification",
    "bert-regression": "regression",
    "t5-static": None,
}


def named(prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in ARRAYS.items() if name.startswith(prefix)}


def checkpoint(case: str, folder: Path) -> Path:
    """The case's files, as the library saved them."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CASES[case]["config"]))
    (folder / "head_config.json").write_text(json.dumps(CASES[case]["head_config"]))
    save_file(named(f"{case}.adapter."), folder / "adapter.safetensors")
    save_file(named(f"{case}.head."), folder / "model_head.safetensors")
    return folder


def base_of(case: str, folder: Path, task: str = "text-classification", **config: Any) -> BaseModel:
    import torch

    model = CASES[case]["model"]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CASES[case]["base"], **config}))
    save_file(named(f"{model}.base."), folder / "model.safetensors", metadata={"format": "pt"})
    count = ARRAYS[f"{case}.logits"].shape[1]
    labels = [f"c{number}" for number in range(count)] if task != "features" else None
    return load_base(folder, task, labels=labels, dtype=torch.float64)


def logits(base: BaseModel, case: str) -> np.ndarray:
    import torch

    inputs = {
        name: torch.from_numpy(array.astype(np.int64))
        for name, array in named(f"{CASES[case]['model']}.input.").items()
    }
    with torch.no_grad():
        result: np.ndarray = base.module(**inputs).logits.numpy()
    return result


@pytest.mark.parametrize("case", COMPUTED)
def test_a_head_that_transformers_has_too(case: str, tmp_path: Path) -> None:
    """Default heads were refused, what their numbers mean was read nowhere, and the file of a
    T5 classifier's head, which holds the whole model, too."""
    base = base_of(case, tmp_path / "base")
    adapter = load_adapter(checkpoint(case, tmp_path / "adapter"), base.info)
    adapter = complete_head(base.module, base.info.head, adapter)
    inject(base.module, adapter)
    expected = ARRAYS[f"{case}.logits"]
    assert np.abs(expected).max() > 0.1
    assert np.abs(logits(base, case) - expected).max() < TOLERANCE
    assert adapter.problem_type == PROBLEM_TYPES.get(case, "single_label_classification")
    # The library writes placeholders where nobody gave names.
    assert adapter.labels is None


@pytest.mark.parametrize("case", REFUSED)
def test_any_other_head_is_refused_and_the_body_works_without_it(case: str, tmp_path: Path) -> None:
    """Where a head cannot be expressed, the message says what can be done, and that is so."""
    folder = checkpoint(case, tmp_path / "adapter")
    base = base_of(case, tmp_path / "base")
    with pytest.raises(InputError) as error:
        load_adapter(folder, base.info)
    assert f"{folder / 'head_config.json'}: {REFUSED[case]}" in str(error.value)
    assert str(error.value).endswith(WITHOUT)
    body = load_adapter(folder, base_of(case, tmp_path / "features", "features").info)
    assert not body.head
    assert any("is left out" in note for note in body.notes)


def test_no_case_is_left_out() -> None:
    assert {*COMPUTED, *REFUSED} == set(CASES)


def test_an_activation_of_the_config_counts(tmp_path: Path) -> None:
    case = "deberta-v2-default"
    base = base_of(case, tmp_path / "base", pooler_hidden_act="tanh")
    inject(base.module, load_adapter(checkpoint(case, tmp_path / "adapter"), base.info))
    assert np.abs(logits(base, case) - ARRAYS[f"{case}.logits"]).max() < TOLERANCE


def test_a_head_without_a_pooler_goes_on_with_the_models_own(tmp_path: Path) -> None:
    """Whatever head stood there before."""
    base = base_of("bert-default", tmp_path / "base")
    before = logits(base, "bert-default")
    own = load_adapter(checkpoint("bert-default", tmp_path / "adapter"), base.info)
    plain = complete_head(base.module, base.info.head, own)
    static = type(plain)("none", {}, {"classifier": plain.head["classifier"]})
    inject(base.module, static).remove()
    expected = logits(base, "bert-default")
    injection = inject(base.module, own)
    assert np.abs(logits(base, "bert-default") - expected).max() > 0.1
    injection.remove()
    inject(base.module, static).remove()
    np.testing.assert_array_equal(logits(base, "bert-default"), expected)
    assert before.shape == expected.shape


def test_heads_of_other_names_in_the_file_are_told(tmp_path: Path) -> None:
    case = "roberta-two-heads"
    base = base_of(case, tmp_path / "base")
    adapter = load_adapter(checkpoint(case, tmp_path / "adapter"), base.info)
    assert adapter.notes == ("head_config.json: the file of the head 'sst' also holds sst-2, left out",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("transformer.encoder.block.0.layer.0.SelfAttention.q.weight", "saved with the adapter, differs from the base"),
        ("transformer.shared.weight", "'shared', saved with the adapter, differs from the base model's own"),
        ("transformer.decoder.embed_tokens.weight", "'decoder.embed_tokens', saved with the adapter, differs"),
        ("transformer.encoder.block.0.layer.1.adapters.sst.adapter_up.weight", "task head"),
    ],
)
def test_a_model_around_a_head_must_be_the_base_model(change: str, message: str, tmp_path: Path) -> None:
    base = base_of("t5-static", tmp_path / "base")
    folder = checkpoint("t5-static", tmp_path / "adapter")
    head = load_file(folder / "model_head.safetensors")
    assert change in head
    head[change] = head[change] + np.float32(1e-3)
    save_file(head, folder / "model_head.safetensors")
    with pytest.raises(InputError, match=message):
        complete_head(base.module, base.info.head, load_adapter(folder, base.info))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"label2id": {"no": 0, "so so": 1, "yes": 2}}, ("no", "so so", "yes")),
        ({"label2id": {"no": "2", "so so": "1", "yes": "0"}}, ("yes", "so so", "no")),
        ({"label2id": None, "id2label": {"0": "no", "1": "so so", "2": "yes"}}, ("no", "so so", "yes")),
        ({"label2id": {"LABEL_0": 1, "LABEL_1": 0, "LABEL_2": 2}}, ("LABEL_1", "LABEL_0", "LABEL_2")),
        ({"label2id": None}, None),
        ({"label2id": {"no": 0, "so so": 1, "yes": 1}}, "field 'label2id': expected the numbers 0 to 2"),
        ({"label2id": {"no": 0, "so so": 1}}, "2 label names for a head of 3"),
    ],
)
def test_class_names_of_every_form(changes: dict[str, Any], expected: Any, tmp_path: Path) -> None:
    base = base_of("bert-default", tmp_path / "base")
    folder = checkpoint("bert-default", tmp_path / "adapter")
    whole = json.loads((folder / "head_config.json").read_text())
    whole["config"].update(changes)
    (folder / "head_config.json").write_text(json.dumps(whole))
    if isinstance(expected, str):
        with pytest.raises(InputError) as error:
            load_adapter(folder, base.info)
        assert expected in str(error.value)
    else:
        assert load_adapter(folder, base.info).labels == expected


def test_embeddings_of_the_adapters_own_are_refused(tmp_path: Path) -> None:
    base = base_of("bert-default", tmp_path / "base")
    folder = checkpoint("bert-default", tmp_path / "adapter")
    (folder / "embedding.pt").write_bytes(b"")
    with pytest.raises(InputError, match="embeddings that were trained with the adapter are not supported"):
        load_adapter(folder, base.info)


def test_what_inspect_tells_of_a_flexible_head(tmp_path: Path) -> None:
    told = describe_adapter(checkpoint("bert-multilabel", tmp_path / "adapter"))
    assert told.task == "text-classification"
    assert told.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
