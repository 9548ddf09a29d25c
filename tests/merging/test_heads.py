"""Task heads that do not fit the base model are refused, and what the model's config says of them changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export.checkpoints.adapter import HeadLayer
from adapter_export.errors import InputError
from adapter_export.merging.heads import check_language_head, head_change
from adapter_export.merging.merge import merge
from adapter_export.merging.model_folder import ModelFolder, read_model_folder
from adapter_export.merging.weights import read_weight_headers
from tests.merging.models import tensors, write_adapter, write_model

TASK = "text-classification"


@pytest.fixture
def model_folder(tiny_model: Callable[..., Path]) -> Callable[..., ModelFolder]:
    def make(*arguments: Any) -> ModelFolder:
        folder = tiny_model(*arguments)
        config = json.loads((folder / "config.json").read_text())
        return read_model_folder(folder, config, read_weight_headers(folder, config))

    return make


@pytest.fixture
def adapter(tiny_info: Callable[..., Any], random_adapter: Callable[..., Any]) -> Callable[..., Any]:
    """An adapter whose head has layers of the given shapes, or the model's own ones."""

    def make(model_type: str, **layers: tuple[int, int]) -> Any:
        made = random_adapter(tiny_info(model_type, TASK), "ia3", labels=("a", "b"))
        head = {name.replace("_0_", "."): HeadLayer(np.ones(size, np.float32), None) for name, size in layers.items()}
        return replace(made, head=head or made.head)

    return make


@pytest.mark.parametrize(
    ("base", "layers", "match"),
    [
        (("bert",), {"classifier": (2, 31)}, "'classifier': expected 32 inputs for this base model, found 31"),
        (("bert", TASK), {"classifier": (2, 31)}, "'classifier': expected 32 inputs for this base model, found 31"),
        (
            ("distilbert",),
            {"pre_classifier": (31, 32), "classifier": (2, 32)},
            "'pre_classifier': expected 32 outputs for this base model, found 31",
        ),
        (("distilbert",), {"classifier": (2, 32)}, "'pre_classifier': is neither in the adapter nor in the base model"),
    ],
)
def test_sizes(base: tuple[str, ...], layers: dict[str, Any], match: str, model_folder: Any, adapter: Any) -> None:
    with pytest.raises(InputError, match=match):
        head_change(model_folder(*base), adapter(base[0], **layers), TASK)


def test_a_layer_the_adapter_lacks_stays_the_models_own(model_folder: Any, adapter: Any) -> None:
    change = head_change(model_folder("distilbert", TASK), adapter("distilbert", classifier=(2, 32)), TASK)
    assert set(change.added) == {"classifier.weight", "classifier.bias"}
    assert change.dropped == {"classifier.weight", "classifier.bias"}


def test_a_bias_where_the_model_has_none(model_folder: Any, adapter: Any) -> None:
    made = adapter("llama")
    head = {"score": replace(made.head["score"], bias=np.ones(2, np.float32))}
    with pytest.raises(InputError, match="'score': has a bias, but the model's layer has none"):
        head_change(model_folder("llama"), replace(made, head=head), TASK)


def test_a_bias_the_adapter_lacks_is_zero(model_folder: Any, adapter: Any) -> None:
    change = head_change(model_folder("bert"), adapter("bert", classifier=(2, 32)), TASK)
    assert not change.added["classifier.bias"].any()


def test_a_part_of_the_base_that_the_class_needs(tmp_path: Path, model_folder: Any, adapter: Any) -> None:
    """A masked language model is saved without the pooler, which would start with random weights."""
    found = model_folder("bert", "causal-lm")
    with pytest.raises(InputError, match=r"tensor 'bert\.pooler\.dense\.weight' is missing, which BertForSequence"):
        head_change(found, adapter("bert"), TASK)


def test_an_unknown_task_class(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", model_type="unheard_of", architectures=["UnheardOfForCausalLM"])
    adapter = write_adapter(tmp_path / "adapter", task_type="SEQ_CLS")
    held = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {**held, "base_model.model.score.weight": np.ones((2, 8), np.float32)}, adapter / "adapter_model.safetensors"
    )
    with pytest.raises(InputError, match="a unheard_of model has for task 'text-classification' is not known"):
        merge(model, adapter, tmp_path / "out")
    # With a head of its own, it tells.
    write_model(tmp_path / "headed", model_type="unheard_of", architectures=["UnheardOfForSequenceClassification"])
    state = {**tensors(), "score.weight": np.zeros((3, 8), np.float32)}
    del state["lm_head.weight"]
    save_file(state, tmp_path / "headed" / "model.safetensors")
    merge(tmp_path / "headed", adapter, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["score.weight"].tolist() == np.ones((2, 8)).tolist()


def test_the_number_of_labels_follows_their_names(tmp_path: Path) -> None:
    """`num_labels` of an old config would win over the names when it is loaded."""
    model = write_model(tmp_path / "model", num_labels=7, id2label={"0": "old"}, label2id={"old": 0}, kept="so")
    adapter = write_adapter(tmp_path / "adapter", task_type="SEQ_CLS")
    held = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {**held, "base_model.model.score.weight": np.ones((2, 8), np.float32)}, adapter / "adapter_model.safetensors"
    )
    merge(model, adapter, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "num_labels" not in config
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
    assert config["label2id"] == {"LABEL_0": 0, "LABEL_1": 1}
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["kept"] == "so"


@pytest.mark.parametrize("task", ["causal-lm", "features"])
def test_a_repeated_output_layer_must_be_the_models_own(task: str, model_folder: Any, adapter: Any) -> None:
    """Of its own (LLaMA here), or tied to the input embedding (GPT-2)."""
    names = {
        "causal-lm": {"llama": "lm_head.weight", "gpt2": "transformer.wte.weight"},
        "features": {"llama": "embed_tokens.weight", "gpt2": "wte.weight"},
    }
    for model_type, name in names[task].items():
        found = model_folder(model_type, task)
        own = load_file(found.folder / "model.safetensors")[name]
        made = replace(adapter(model_type), head={"lm_head": HeadLayer(own, None)})
        check_language_head(found, made)
        assert head_change(found, made, "causal-lm") is None
        for other in (own + np.float32(1e-3), own[:-1]):
            with pytest.raises(InputError, match="'lm_head': differs from the base model's own"):
                check_language_head(found, replace(made, head={"lm_head": HeadLayer(other, None)}))
