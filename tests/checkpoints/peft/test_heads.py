"""Task heads in PEFT's checkpoints: what PEFT saves, what it leaves to the base model, and what is no head."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export.checkpoints.folder import load_adapter, save_adapter
from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.heads import complete_head
from adapter_export.models.injection import inject
from tests.checkpoints.oracle import assert_same, assert_same_tensors, by_peft, edit_config, edit_tensors, run, train

TinyBase = Callable[..., BaseModel]
Refused = Callable[..., str]

KEYS = r".*\.(k|v|key|value|k_proj|v_proj|k_lin|v_lin|c_attn|Wqkv|key_proj)"
ALL = {"target_modules": KEYS, "feedforward_modules": []}
TEXT, IMAGE = "text-classification", "image-classification"
SEQ = {"task_type": "SEQ_CLS"}

# model_type, task, settings, the layers that the checkpoint has
HEADS: list[tuple[str, str, dict[str, Any], tuple[str, ...]]] = [
    ("bert", TEXT, SEQ, ("classifier",)),
    ("distilbert", TEXT, SEQ, ("pre_classifier", "classifier")),
    ("roberta", TEXT, SEQ, ("classifier.dense", "classifier.out_proj")),
    ("xlm-roberta", TEXT, SEQ, ("classifier.dense", "classifier.out_proj")),
    ("electra", TEXT, SEQ, ("classifier.dense", "classifier.out_proj")),
    ("mpnet", TEXT, SEQ, ("classifier.dense", "classifier.out_proj")),
    ("albert", TEXT, SEQ, ("classifier",)),
    ("gpt2", TEXT, {**SEQ, "fan_in_fan_out": True}, ("score",)),
    ("llama", TEXT, SEQ, ("score",)),
    ("vit", IMAGE, {"modules_to_save": ["classifier"]}, ("classifier",)),
    ("dinov2", IMAGE, {"modules_to_save": ["classifier"]}, ("classifier",)),
    # The base model's own layers before the last one.
    ("deberta-v2", TEXT, SEQ, ("classifier",)),
    ("deberta-v2", TEXT, {**SEQ, "modules_to_save": ["pooler"]}, ("pooler.dense", "classifier")),
    ("modernbert", TEXT, SEQ, ("classifier",)),
    ("modernbert", TEXT, {**SEQ, "modules_to_save": ["head.dense"]}, ("head.dense", "classifier")),
    # PEFT saves no head of that name unless told.
    ("t5", TEXT, SEQ, ()),
    ("t5", TEXT, {"modules_to_save": ["classification_head"]}, ("classification_head.dense",
                                                                "classification_head.out_proj")),
    ("roberta", TEXT, {"modules_to_save": ["out_proj"]}, ("classifier.out_proj",)),
    ("bert", "features", {}, ()),
    ("gpt2", "causal-lm", {"task_type": "CAUSAL_LM", "fan_in_fan_out": True}, ()),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "task", "settings", "layers"), HEADS)
def test_heads_are_read_and_written(
    model_type: str, task: str, settings: dict[str, Any], layers: tuple[str, ...],
    tiny_base: TinyBase, inputs_for: Callable[..., Any], tmp_path: Path,
) -> None:  # fmt: skip
    base, inputs = tiny_base(model_type, task), inputs_for(model_type)
    if model_type == "t5" and task == TEXT:  # it makes the decoder's input itself, and reads the end of its own
        inputs = {"input_ids": np.where(inputs["input_ids"] == 3, 4, inputs["input_ids"])}
        inputs["input_ids"][:, -1] = 3
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    train(base, theirs, **{**ALL, **settings})
    assert_same(base, theirs, inputs)

    adapter = load_adapter(theirs, base.info)
    assert tuple(adapter.head) == layers
    ours.mkdir()
    save_adapter(ours, adapter, base.info, "base")
    assert_same_tensors(ours, theirs)
    np.testing.assert_array_equal(by_peft(base, ours, inputs), by_peft(base, theirs, inputs))


@pytest.fixture
def partial(tiny_base: TinyBase, tmp_path: Path) -> Path:
    """A DeBERTa classifier without the layer before the last one."""
    folder = tmp_path / "partial"
    train(tiny_base("deberta-v2", TEXT), folder, **{**ALL, **SEQ})
    return folder


def test_a_layer_that_neither_has_is_refused(
    partial: Path, tiny_model: Callable[..., Path], tmp_path: Path, refused: Refused
) -> None:
    # The base class has no head at all: that of a classifier starts at random.
    base = load_base(tiny_model("deberta-v2"), TEXT)
    assert base.info.untrained == ("pooler.dense", "classifier")
    message = refused(partial, base.info)
    assert (
        "task head: layer 'pooler.dense' was not saved with the adapter, and the base model has no trained" in message
    )
    assert "train again with modules_to_save=['classifier', 'pooler.dense']" in message
    # A base model that lacks only what the adapter brings is enough.
    folder = shutil.copytree(tiny_model("deberta-v2", TEXT), tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {n: t for n, t in weights.items() if "classifier" not in n}, folder / "model.safetensors", {"format": "pt"}
    )
    base = load_base(folder, TEXT)
    assert base.info.untrained == ("classifier",)
    assert base.untrained_head
    assert tuple(load_adapter(partial, base.info).head) == ("classifier",)


def test_a_head_is_completed_with_the_base_models_layers(
    partial: Path, tiny_base: TinyBase, inputs_for: Callable[..., Any]
) -> None:
    base, inputs = tiny_base("deberta-v2", TEXT), inputs_for("deberta-v2")
    expected = by_peft(base, partial, inputs)
    adapter = load_adapter(partial, base.info)
    whole = complete_head(base.module, base.info.head, adapter)
    assert tuple(whole.head) == ("pooler.dense", "classifier")
    np.testing.assert_array_equal(whole.head["pooler.dense"].weight, base.module.pooler.dense.weight.numpy())
    # As a session does that had another adapter before.
    base.module.pooler.dense.weight.data.fill_(7)
    inject(base.module, whole)
    np.testing.assert_allclose(run(base.module.double(), inputs), expected, rtol=1e-12)
    assert complete_head(base.module, base.info.head, whole) is whole


def test_a_norm_in_a_head_is_named(tiny_base: TinyBase, tmp_path: Path, refused: Refused) -> None:
    base = tiny_base("modernbert", TEXT)
    train(base, tmp_path, **{**ALL, **SEQ, "modules_to_save": ["head"]})
    assert "module 'head.norm': expected a linear layer, found weight (32,)" in refused(tmp_path, base.info)


def test_the_norm_of_a_head_need_not_be_in_the_base_model(tiny_model: Callable[..., Path]) -> None:
    import torch

    base = load_base(tiny_model("modernbert"), TEXT)
    assert base.info.untrained == ("head.dense", "classifier")
    assert torch.equal(base.module.head.norm.weight, torch.ones(32))


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta"])
def test_a_head_that_was_lost_is_missed(model_type: str, tiny_base: TinyBase, tmp_path: Path, refused: Refused) -> None:
    base = tiny_base(model_type, TEXT)
    train(base, tmp_path, **{**ALL, **SEQ})
    last = base.info.head[-1]
    edit_tensors(tmp_path, lambda t: {name: tensor for name, tensor in t.items() if f".{last}." not in name})
    message = f"tensor '{last}.weight' is missing, but the config's modules_to_save or task_type names its module"
    assert message in refused(tmp_path, base.info)
    edit_tensors(tmp_path, lambda t: {name: tensor for name, tensor in t.items() if "classifier" not in name})
    assert "is missing, but the config's modules_to_save or task_type names its module" in refused(tmp_path, base.info)
    # The task alone says that there is one.
    edit_config(tmp_path, modules_to_save=None)
    assert "is missing, but the config's modules_to_save or task_type names its module" in refused(tmp_path, base.info)
    with pytest.raises(KeyError):
        by_peft(base, tmp_path, {})


@pytest.mark.parametrize("name", ["bert.pooler.dense", "bert.encoder.layer.0.output.LayerNorm"])
def test_a_module_of_the_base_model_is_no_head(
    name: str, tiny_base: TinyBase, tmp_path: Path, refused: Refused
) -> None:
    base = tiny_base("bert", TEXT)
    train(base, tmp_path, **{**ALL, **SEQ, "modules_to_save": [name.rpartition(".")[2]]})
    message = refused(tmp_path, base.info)
    assert "replaces a module of the base model; only a task head outside it can be swapped" in message


def test_the_order_of_layers_without_the_models_word(tiny_base: TinyBase, tmp_path: Path) -> None:
    """A checkpoint of a classifier, read for the base class: the labels are still those of the last layer."""
    train(tiny_base("distilbert", TEXT, 2), tmp_path, **{**ALL, **SEQ})
    (tmp_path / "adapter_export.json").write_text(json.dumps({"labels": ["no", "yes"]}))
    adapter = load_adapter(tmp_path, tiny_base("distilbert").info, task="")
    assert tuple(adapter.head) == ("pre_classifier", "classifier")
    assert adapter.num_labels == 2


def test_features_have_no_place_for_a_head(
    tiny_base: TinyBase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it is left out, a note says so, and no class names are left of it."""
    train(tiny_base("distilbert", TEXT, 2), tmp_path, **{**ALL, **SEQ})
    (tmp_path / "adapter_export.json").write_text(json.dumps({"labels": ["no", "yes"]}))
    adapter = load_adapter(tmp_path, tiny_base("distilbert").info)
    assert (adapter.head, adapter.labels, adapter.num_labels) == ({}, None, None)
    assert adapter.sites
    assert "its task head (classifier, pre_classifier) is left out" in caplog.text


@pytest.mark.parametrize("module", ["word_embeddings", "position_embeddings"])
def test_finding_19_embeddings_that_equal_the_model_s_are_taken(
    module: str, tiny_base: TinyBase, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    base = tiny_base("bert", TEXT)
    train(base, tmp_path, **{**ALL, **SEQ, "modules_to_save": [module]})
    file = tmp_path / "adapter_model.safetensors"
    tensors, name = load_file(file), f"base_model.model.bert.embeddings.{module}.weight"
    own = base.module.get_submodule(f"bert.embeddings.{module}").weight.numpy()
    save_file({**tensors, name: own}, file)
    adapter = load_adapter(tmp_path, base.info)
    assert list(adapter.repeated) == [f"embeddings.{module}"]
    assert set(complete_head(base.module, base.info.head, adapter).head) == {"classifier"}

    for other, found in ((own + np.float32(1e-3), "differs from"), (own[:-1], "has shape")):
        save_file({**tensors, name: other}, file)
        with pytest.raises(InputError, match=f"'embeddings.{module}', saved with the adapter, {found}"):
            complete_head(base.module, base.info.head, load_adapter(tmp_path, base.info))


@pytest.mark.parametrize(("model_type", "layer"), [("whisper", "proj_out"), ("gpt_neox", "lm_head")])
def test_finding_19_an_output_layer_that_the_base_model_has(
    model_type: str, layer: str, tiny_base: TinyBase, inputs_for: Callable[..., Any], tmp_path: Path
) -> None:
    """Whatever it is called: equal to the base model's it is taken, another one is refused."""
    speech = model_type == "whisper"
    base = tiny_base(model_type, "seq2seq-lm" if speech else "causal-lm")
    settings: dict[str, Any] = {"target_modules": r".*\.(k_proj|v_proj|query_key_value)", "feedforward_modules": []}
    train(base, tmp_path, **settings, modules_to_save=[layer])
    key = f"base_model.model.{layer}.weight"
    own = load_file(tmp_path / "adapter_model.safetensors")[key]
    with pytest.raises(InputError, match="differs from the base model's own"):
        complete_head(base.module, base.info.head, load_adapter(tmp_path, base.info))
    same = base.module.get_submodule(layer).weight.numpy().astype(own.dtype)
    edit_tensors(tmp_path, lambda tensors: {**tensors, key: same})
    adapter = complete_head(base.module, base.info.head, load_adapter(tmp_path, base.info))
    expected = by_peft(base, tmp_path, inputs_for(model_type))
    inject(base.module, adapter)
    np.testing.assert_allclose(run(base.module.double(), inputs_for(model_type)), expected, rtol=1e-9, atol=1e-11)
