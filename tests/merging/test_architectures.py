"""Every architecture by its tensor names alone: described as the loaded model, and merged to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from adapter_export import tasks
from adapter_export.architectures.registry import model_types
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.merging.merge import merge
from adapter_export.merging.model import merge_into
from adapter_export.merging.model_folder import ModelFolder, read_model_folder
from adapter_export.merging.task_classes import task_class
from adapter_export.merging.weights import read_weight_headers
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.heads import load_head
from adapter_export.models.quiet import quiet
from adapter_export.reading.json_files import read_json

TEXT, IMAGE, CAUSAL, SEQ2SEQ = "text-classification", "image-classification", "causal-lm", "seq2seq-lm"
WITH_HEADS = [
    *((name, IMAGE) for name in ("dinov2", "vit")),
    *((name, TEXT) for name in ("albert", "bart", "bert", "bloom", "deberta-v2", "distilbert", "electra", "falcon",
                                "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox", "gptj", "llama",
                                "mistral", "mixtral", "modernbert", "mpnet", "mt5", "opt", "phi", "phi3", "qwen2",
                                "qwen3", "roberta", "t5", "xlm-roberta")),
]  # fmt: skip
LANGUAGE = [("bert", CAUSAL), ("gpt2", CAUSAL), ("gpt_neox", CAUSAL), ("llama", CAUSAL), ("opt", CAUSAL),
            ("bart", SEQ2SEQ), ("t5", SEQ2SEQ), ("whisper", SEQ2SEQ)]  # fmt: skip


def model_folder_of(folder: Path) -> ModelFolder:
    config = read_json(folder / "config.json")
    return read_model_folder(folder, config, read_weight_headers(folder, config))


def described_alike(found: ModelInfo, expected: ModelInfo) -> None:
    for name in ("model_type", "architecture", "prefix", "nested", "hidden_size", "head", "untrained"):
        assert getattr(found, name) == getattr(expected, name), name
    # Experts are modules on disk, and part of one in transformers 5; an output layer without prefix is T5's.
    inputs = {path: size for path, size in found.inputs.items() if ".experts." not in path}
    assert inputs == {path: size for path, size in expected.inputs.items() if path != "lm_head"}
    assert found.convolutions == expected.convolutions
    for path in (*inputs, *(path for path in found.modules if path.endswith(("norm", "LayerNorm")))):
        assert found.modules[path] == expected.modules[path], path


@pytest.mark.parametrize(("model_type", "task"), LANGUAGE)
def test_described_as_the_loaded_model(
    model_type: str, task: str, tiny_model: Callable[..., Path], tiny_info: Callable[..., ModelInfo]
) -> None:
    described_alike(model_folder_of(tiny_model(model_type, task)).info(task), tiny_info(model_type, task))


@pytest.mark.parametrize(("model_type", "task"), WITH_HEADS)
def test_the_task_class_is_as_transformers_has_it(
    model_type: str, task: str, tiny_model: Callable[..., Path], tiny_base: Callable[..., BaseModel]
) -> None:
    """What the class of the task has, from the config of the bare base model."""
    base = tiny_base(model_type, task)
    described_alike(model_folder_of(tiny_model(model_type, task)).info(task), base.info)
    found = task_class(model_type, task, read_json(tiny_model(model_type) / "config.json"))
    assert found is not None
    assert found.architecture == type(base.module).__name__
    assert found.prefix == base.module.base_model_prefix
    outside = {name for name, _ in base.module.named_parameters() if not name.startswith(f"{found.prefix}.")}
    expected = {f"{layer}.weight" for layer in (*found.layers, *found.norms)} | {
        f"{name}.bias" for name in found.biases
    }
    assert outside == expected
    assert base.info.head == found.layers


def loaded(folder: Path, task: str, model_type: str) -> transformers.PreTrainedModel:
    """The merged folder as its users load it, with nothing missing and nothing left over."""
    auto = getattr(transformers, tasks.auto_class(tasks.get(task), model_type))
    with quiet():
        model, report = auto.from_pretrained(folder, output_loading_info=True)
    # Base models saved whole have parts that task classes go without.
    unexpected = {name for name in report["unexpected_keys"] if ".pooler." not in f".{name}"}
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert not unexpected
    return model


def same_weights(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    before, after = expected.state_dict(), found.state_dict()
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


@pytest.mark.parametrize("model_type", model_types())
def test_described_as_the_loaded_model_and_merged_to_the_same_bits(
    model_type: str, tmp_path: Path, tiny_model: Callable[..., Path], tiny_base: Callable[..., BaseModel],
    random_adapter: Callable[..., Adapter], save_checkpoint: Callable[..., Path],
) -> None:  # fmt: skip
    base = tiny_base(model_type)
    described_alike(model_folder_of(tiny_model(model_type)).info("features"), base.info)
    adapter = random_adapter(base.info, "ia3", 3)
    result = merge(tiny_model(model_type), save_checkpoint(adapter, base.info), tmp_path / "merged")
    changed = merge_into(base.module, adapter)
    assert len(result.changed) == len(changed) > 0
    same_weights(loaded(tmp_path / "merged", "features", model_type), base.module)


@pytest.mark.parametrize(("model_type", "task"), WITH_HEADS)
def test_a_bare_base_model_gets_the_adapters_head(
    model_type: str, task: str, tmp_path: Path, tiny_model: Callable[..., Path], random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path], tiny_info: Callable[..., ModelInfo],
) -> None:  # fmt: skip
    """Also one with other labels than the model's own head, where that has one."""
    labels = ("a", "b", "c", "d", "e")
    adapter = random_adapter(tiny_info(model_type, task), "ia3", 4, labels=labels)
    head = dict(adapter.head)
    if model_type == "modernbert":
        head["head.dense"] = replace(head["head.dense"], bias=None)
    adapter = replace(adapter, head=head)
    for name, folder in (("bare", tiny_model(model_type)), ("headed", tiny_model(model_type, task))):
        base = load_base(folder, task, labels=labels)
        checkpoint = save_checkpoint(adapter, base.info)
        result = merge(folder, checkpoint, tmp_path / name)
        assert result.head
        assert result.architecture == type(base.module).__name__
        placed = load_adapter(checkpoint, base.info)
        load_head(base.module, placed)
        merge_into(base.module, placed)
        model = loaded(tmp_path / name, task, model_type)
        assert model.config.architectures == [type(base.module).__name__]
        assert tuple(model.config.id2label.values()) == labels
        assert model.config.label2id["e"] == 4
        if model_type == "modernbert" and name == "bare":
            # What training had for a norm that is on no disk: the identity.
            assert torch.equal(model.head.norm.weight, torch.ones(32))
        same_weights(model, base.module)


def test_a_language_model_becomes_a_classifier(
    tmp_path: Path, tiny_model: Callable[..., Path], random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path], tiny_info: Callable[..., ModelInfo], tiny_base: Callable[..., Any],
) -> None:  # fmt: skip
    """Its own output layer goes, so that nothing is left over."""
    for model_type, task in (("llama", CAUSAL), ("t5", SEQ2SEQ), ("gpt_neox", CAUSAL), ("roberta", CAUSAL)):
        info = tiny_info(model_type, TEXT)
        folder = save_checkpoint(random_adapter(info, "ia3", 5, labels=("no", "yes")), info)
        # Weights of the base model are the same for every task, but for what the classes do not share.
        sidecar = folder / "adapter_export.json"
        sidecar.write_text(sidecar.read_text().replace(info.sha256, ""))
        sidecar.write_text(sidecar.read_text().replace('"base_sha256": ""', '"base_sha256": null'))
        output = tmp_path / model_type
        merge(tiny_model(model_type, task), folder, output)
        loaded(output, TEXT, model_type)
