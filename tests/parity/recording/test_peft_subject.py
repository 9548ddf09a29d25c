"""PEFT as a witness: PEFT reads the checkpoint itself, and tensors that it does not load are reported."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from adapter_export.models.base_model import BaseModel
from adapter_export.parity.recording.files import Mismatch, Refused
from adapter_export.parity.recording.peft_subject import PeftSubject
from adapter_export.parity.recording.subject import Bases
from tests.checkpoints import oracle

WEIGHTS = "adapter_model.safetensors"
Inputs = dict[str, np.ndarray]


@pytest.fixture
def adapter(tiny_base: Callable[..., BaseModel], tmp_path: Path) -> Path:
    """Returns a checkpoint with IA3 and a head of two classes, written by PEFT."""
    base = tiny_base("bert", "text-classification", num_labels=2)
    oracle.train(base, tmp_path / "adapter", task_type="SEQ_CLS")
    return tmp_path / "adapter"


def subject(model: Path, adapter: Path, task: str | None = None) -> PeftSubject:
    return PeftSubject(Bases(model, "float64"), adapter, task)


def by_hand(model: Path, adapter: Path, inputs: Inputs, **options: Any) -> Any:
    """Loads and runs a checkpoint as PEFT's documentation does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = transformers.AutoModelForSequenceClassification.from_pretrained(
            model, dtype=torch.float64, ignore_mismatched_sizes=True, **options
        )
        whole = peft.PeftModel.from_pretrained(base, adapter).double().eval()
        with torch.inference_mode():
            return whole(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.numpy(), whole


def test_the_numbers_are_pefts(
    adapter: Path, tiny_model: Callable[..., Path], inputs_for: Callable[..., Inputs]
) -> None:
    inputs = inputs_for("bert")
    # The base model has no head, or one of three classes; the checkpoint's head has two classes.
    for model in (tiny_model("bert"), tiny_model("bert", "text-classification")):
        found = subject(model, adapter)
        expected, whole = by_hand(model, adapter, inputs, num_labels=2)
        assert found.class_name == "BertForSequenceClassification"
        assert found.witness == f"peft {peft.__version__}"
        np.testing.assert_allclose(found.run(inputs, on=True)["logits"], expected, rtol=1e-11, atol=1e-12)
        # Without the adapter: the base model's body with the adapter's head. PEFT itself has no such state.
        with torch.inference_mode(), whole.disable_adapter():
            body = whole.base_model.model.bert(**{name: torch.from_numpy(value) for name, value in inputs.items()})
            head = whole.base_model.model.classifier.modules_to_save["default"]
            without = head(body.pooler_output).numpy()
        np.testing.assert_allclose(found.run(inputs, on=False)["logits"], without, rtol=1e-11, atol=1e-12)
        # The adapter is switched on again.
        np.testing.assert_allclose(found.run(inputs, on=True)["logits"], expected, rtol=1e-11, atol=1e-12)


def test_requested_features_are_those_of_the_body(
    adapter: Path, tiny_model: Callable[..., Path], inputs_for: Callable[..., Inputs]
) -> None:
    found = subject(tiny_model("bert"), adapter, "features").run(inputs_for("bert"), on=True)
    assert {"last_hidden_state", "pooler_output"} == set(found)


def test_an_adapter_in_the_folder_of_the_base_model_is_ignored(
    adapter: Path, tiny_model: Callable[..., Path], inputs_for: Callable[..., Inputs], tmp_path: Path
) -> None:
    """Transformers would attach it without being asked to."""
    inputs, beside = inputs_for("bert"), Path(shutil.copytree(tiny_model("bert"), tmp_path / "beside"))
    for path in adapter.iterdir():
        shutil.copyfile(path, beside / path.name)
    clean, found = (subject(model, adapter).run(inputs, on=False) for model in (tiny_model("bert"), beside))
    np.testing.assert_array_equal(found["logits"], clean["logits"])


def test_the_head_determines_the_class_if_the_checkpoint_has_no_task(
    tiny_base: Callable[..., BaseModel], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Task_type null and modules_to_save, the only form in which PEFT stores vision models."""
    oracle.train(
        tiny_base("vit", "image-classification", num_labels=2),
        tmp_path / "adapter",
        target_modules=["k_proj", "v_proj", "fc2"],
        feedforward_modules=["fc2"],
        modules_to_save=["classifier"],
    )
    found = subject(tiny_model("vit"), tmp_path / "adapter")
    assert found.class_name == "ViTForImageClassification"
    assert found.head


@pytest.mark.parametrize("how", ["missing", "left over"])
def test_warnings_of_peft_are_a_mismatch(how: str, adapter: Path, tiny_model: Callable[..., Path]) -> None:
    tensors = load_file(adapter / WEIGHTS)
    name = next(name for name in tensors if name.endswith("layer.1.attention.self.key.ia3_l"))
    vector = tensors.pop(name)
    if how == "left over":
        tensors[name] = vector
        tensors[name.replace("key", "query")] = vector
    save_file(tensors, adapter / WEIGHTS)
    with pytest.raises(Mismatch, match=r"1 missing, 0 left over|0 missing, 1 left over"):
        subject(tiny_model("bert"), adapter)


def test_module_names_of_another_transformers_are_refused(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """PEFT itself cannot load what was trained on ViT under transformers 4."""
    names = [f"vit.encoder.layer.{n}.attention.attention.{x}" for n in (0, 1) for x in ("key", "value")]
    vectors = {f"base_model.model.{name}.ia3_l": np.ones((32, 1), np.float32) for name in names}
    save_file(vectors, tmp_path / WEIGHTS)
    config = {"peft_type": "IA3", "target_modules": ["key", "value"], "feedforward_modules": []}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(Refused, match="not found in the base model"):
        subject(tiny_model("vit"), tmp_path)


@pytest.mark.parametrize("names", [["yes", "no"], None])
def test_labels(names: list[str] | None, adapter: Path, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model("bert"), tmp_path / "named"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"id2label": {"1": "on", "0": "off"}}))
    if names:
        (adapter / "adapter_export.json").write_text(json.dumps({"labels": names}))
    assert subject(model, adapter).labels == (names or ["off", "on"])
    # The three classes have no names.
    assert names or subject(tiny_model("bert"), adapter).labels is None


@pytest.mark.parametrize(
    ("trained_on", "task_type", "class_name", "outputs"),
    [
        # Module paths without that of the body, and a base model that was saved with a head: the head stays unchanged.
        ("features", None, "RobertaForSequenceClassification", {"logits"}),
        ("features", "FEATURE_EXTRACTION", "RobertaModel", {"last_hidden_state", "pooler_output"}),
        # Module paths with that of the body, and the task `features`.
        ("text-classification", "FEATURE_EXTRACTION", "RobertaForSequenceClassification", {"last_hidden_state"}),
    ],
)
def test_module_names_with_and_without_that_of_the_body(
    trained_on: str,
    task_type: str | None,
    class_name: str,
    outputs: set[str],
    tiny_base: Callable[..., BaseModel],
    tiny_model: Callable[..., Path],
    inputs_for: Callable[..., Inputs],
    tmp_path: Path,
) -> None:
    places = {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}
    oracle.train(tiny_base("roberta", trained_on), tmp_path / "adapter", task_type=task_type, **places)
    found = subject(tiny_model("roberta", "text-classification"), tmp_path / "adapter")
    on, off = (found.run(inputs_for("roberta"), on=state) for state in (True, False))
    assert found.class_name == class_name
    assert set(on) == outputs
    assert all(np.abs(on[name] - off[name]).max() > 1e-3 for name in outputs if name != "pooler_output")
