"""`train` from files to an adapter folder: what PEFT makes of it, what learns, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError, OutputExists
from adapter_export.models.base_model import load_base
from adapter_export.models.injection import inject
from adapter_export.training.train import TrainResult, train
from tests.training.conftest import CLASSES, texts, write_jsonl

Trained = Callable[..., TrainResult]
TinyModel = Callable[..., Path]


def batch() -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([[2, 5, 9, 20, 3], [2, 7, 30, 3, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("model_type", "head"), [("bert", 1), ("roberta", 2), ("distilbert", 2)])
def test_peft_loads_a_trained_classifier_and_computes_the_same(
    trained: Trained, tiny_model: TinyModel, model_type: str, head: int
) -> None:
    import peft
    from transformers import AutoModelForSequenceClassification

    result = trained(model_type, max_steps=6, eval=True)
    assert result.labels == CLASSES
    folder = tiny_model(model_type, "text-classification")

    base = load_base(folder, "text-classification", labels=CLASSES)
    before = base.module(**batch()).logits
    adapter = load_adapter(result.output, base.info)
    assert len(adapter.head) == head
    for name, layer in adapter.head.items():
        assert not np.allclose(layer.weight, base.module.get_submodule(name).weight.detach(), atol=1e-3), "head learns"
    inject(base.module, adapter)
    ours = base.module(**batch()).logits
    assert not torch.allclose(ours, before, atol=1e-2), "training must have changed something"

    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(CLASSES))
    theirs = peft.PeftModel.from_pretrained(model, result.output).eval()(**batch()).logits
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_bottleneck_is_read_back_as_it_was_trained(trained: Trained, tiny_model: TinyModel) -> None:
    result = trained("bert", method="bottleneck", max_steps=4, placement="pfeiffer", reduction_factor=4)
    info = load_base(tiny_model("bert", "text-classification"), "text-classification", labels=CLASSES).info
    adapter = load_adapter(result.output, info)
    assert (adapter.labels, adapter.task, adapter.parameters) == (CLASSES, "text-classification", result.parameters)
    stored = load_file(result.output / "adapter.safetensors")
    assert len(adapter.sites) == 2
    for site, site_adapter in adapter.sites.items():
        key = f"bert.{site.module.removesuffix('.LayerNorm')}.adapters.default.adapter_up.weight"
        assert np.array_equal(site_adapter.tensors["up"], stored[key].T)
        assert site_adapter.tensors["up"].shape == (8, 32)
        assert site_adapter.tensors["up"].any(), "it starts at zero, so it has learned"


@pytest.mark.parametrize(
    ("model_type", "task", "method"),
    [
        ("bert", "text-classification", "ia3"),
        ("gpt2", "text-classification", "bottleneck"),
        ("gpt2", "causal-lm", "ia3"),
        ("llama", "causal-lm", "bottleneck"),
        ("t5", "seq2seq-lm", "ia3"),
    ],
)
def test_every_task_learns_and_leaves_the_base_as_it_was(
    trained: Trained, tiny_model: TinyModel, model_type: str, task: str, method: str
) -> None:
    before = contents(tiny_model(model_type, task))
    result = trained(model_type, task, method, rows=48, epochs=6, batch_size=8, eval=True, learning_rate=3e-2)
    assert contents(tiny_model(model_type, task)) == before
    losses = [entry["loss"] for entry in result.history]
    assert len(losses) == 6
    assert losses[-1] < 0.97 * losses[0]
    assert result.metrics["loss"] == losses[-1]
    assert set(result.metrics) == (
        {"loss", "accuracy", "macro_f1"} if task == "text-classification" else {"loss", "perplexity"}
    )
    assert (result.steps, result.kept_step) == (36, 36)
    assert result.loss is not None


def test_classes_are_learned(trained: Trained) -> None:
    result = trained("bert", rows=90, epochs=20, batch_size=8, learning_rate=0.05, eval=True)
    assert result.metrics["accuracy"] > 0.7, "of 1/3 by chance"
    assert result.metrics["macro_f1"] > 0.7


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(trained: Trained) -> None:
    for output, seed in (("a", 1), ("b", 1), ("c", 2)):
        trained("bert", output=output, max_steps=3, seed=seed, method="bottleneck")
    folder = trained("bert", output="d", max_steps=3, seed=1, method="bottleneck").output.parent
    assert contents(folder / "a") == contents(folder / "b") == contents(folder / "d")
    assert contents(folder / "a")["adapter.safetensors"] != contents(folder / "c")["adapter.safetensors"]


def test_a_head_the_checkpoint_lacks_is_seeded(tiny_model: TinyModel, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "train.jsonl", texts(12))
    for output in ("a", "b"):
        torch.rand(3)
        train(tiny_model("bert"), "ia3", "text-classification", data, tmp_path / output, max_steps=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_gradient_accumulation_changes_memory_not_the_result(trained: Trained) -> None:
    whole = trained("bert", rows=26, output="whole", epochs=2, batch_size=8)
    parts = trained("bert", rows=26, output="parts", epochs=2, batch_size=8, gradient_accumulation=3)
    assert whole.steps == parts.steps == 8
    for name, tensor in load_file(whole.output / "adapter_model.safetensors").items():
        other = load_file(parts.output / "adapter_model.safetensors")[name]
        np.testing.assert_allclose(tensor, other, atol=2e-5, err_msg=name)


def test_one_update_already_learns(trained: Trained) -> None:
    result = trained("bert", max_steps=1, eval=True)
    assert result.steps == 1
    stored = load_file(result.output / "adapter_model.safetensors")
    assert all((tensor != 1).any() for name, tensor in stored.items() if name.endswith("ia3_l"))


def test_early_stopping_keeps_the_best(trained: Trained) -> None:
    # So large a rate that the loss soon rises again.
    result = trained("bert", epochs=30, learning_rate=0.5, early_stopping=2, eval=True)
    losses = [entry["loss"] for entry in result.history]
    best = losses.index(min(losses))
    assert best == len(losses) - 1 - 2
    assert result.steps < 30
    assert result.kept_step == result.history[best]["step"]
    assert result.metrics["loss"] == min(losses)
    assert not result.output.with_name("adapter.partial").exists()


def test_what_is_kept_by_early_stopping_is_what_is_written(trained: Trained, tiny_model: TinyModel) -> None:
    stopped = trained("bert", output="stopped", epochs=30, learning_rate=0.5, early_stopping=2, eval=True)
    epochs = [entry["step"] for entry in stopped.history].index(stopped.kept_step) + 1
    assert epochs < len(stopped.history)
    info = load_base(tiny_model("bert", "text-classification"), "text-classification", labels=CLASSES)
    inject(info.module, load_adapter(stopped.output, info.info))
    from adapter_export.training.data import prepare
    from adapter_export.training.tables import read_table

    data = prepare(info, read_table(stopped.output.with_name("eval.jsonl"), "text", "label"), labels=CLASSES)
    inputs = data.collate(data.train.rows)
    with torch.no_grad():
        assert info.module(**inputs).loss.item() == pytest.approx(stopped.metrics["loss"], rel=1e-5)


def test_a_custom_placement(trained: Trained, tiny_model: TinyModel) -> None:
    target = r"encoder\.layer\.1\.(intermediate|output)\.dense"
    result = trained("bert", max_steps=2, target=target, feedforward=r".*\.output\.dense")
    info = load_base(tiny_model("bert", "text-classification"), "text-classification", labels=CLASSES).info
    sites = {site.name for site in load_adapter(result.output, info).sites}
    assert sites == {"encoder.layer.1.intermediate.dense", "encoder.layer.1.output.dense.input"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "vera"}, "method 'vera': expected one of "),
        ({"task": "features"}, "task 'features': expected one of text-classification, causal-lm, seq2seq-lm"),
        ({"placement": "pfeiffer"}, "--placement: method 'ia3' has no such setting, only: feedforward"),
        ({"method": "bottleneck", "reduction_factor": 0}, "reduction factor 0"),
        ({"early_stopping": 2}, "--early-stopping: needs --eval"),
        ({"batch_size": 2, "gradient_accumulation": 4}, "cannot be divided"),
        ({"target": "nothing"}, "--target 'nothing' matches no module"),
        ({"text_column": "body"}, "column 'body' is missing; its columns are 'text', 'label'"),
    ],
)
def test_bad_input_leaves_nothing(
    tiny_model: TinyModel, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    data = write_jsonl(tmp_path / "train.jsonl", texts(6))
    arguments: dict[str, Any] = {"method": "ia3", "task": "text-classification", **settings}
    with pytest.raises(InputError, match=message):
        train(tiny_model("bert", "text-classification"), train=data, output=tmp_path / "new" / "out", **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": ""}, "column 'completion': expected a value, found none"),
        ({"prompt": "a"}, "column 'completion': expected a value, found none"),
        ({"prompt": " ", "completion": "b"}, "column 'prompt': expected a value, found none"),
        ({"prompt": 5, "completion": "b"}, "column 'prompt': expected text, found 5"),
        ({"prompt": [], "completion": "b"}, r"column 'prompt': expected text, found \[\]"),
        ({"prompt": "a", "completion": 0.5}, "column 'completion': expected text or a whole number, found 0.5"),
        ({"prompt": "a", "completion": ["b"]}, "column 'completion': expected text or a whole number, found "),
    ],
)
@pytest.mark.parametrize("task", ["causal-lm", "seq2seq-lm"])
def test_a_bad_completion_is_named(tmp_path: Path, task: str, row: dict[str, Any], message: str) -> None:
    data = write_jsonl(tmp_path / "train.jsonl", [{"prompt": "good", "completion": "night"}, row])
    with pytest.raises(InputError, match=rf"train\.jsonl: line 2: {message}"):
        train(tmp_path / "no-model", "ia3", task, data, tmp_path / "out")


def test_an_evaluation_has_the_columns_of_the_training_data(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "train.jsonl", [{"prompt": "good", "completion": "night"}])
    other = write_jsonl(tmp_path / "eval.jsonl", [{"text": "good night"}])
    with pytest.raises(InputError, match=r"eval\.jsonl: column 'prompt' is missing; its columns are 'text'"):
        train(tmp_path / "no-model", "ia3", "causal-lm", data, tmp_path / "out", eval=other)


def test_an_evaluation_label_that_training_has_not(tiny_model: TinyModel, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "train.jsonl", texts(6))
    other = write_jsonl(tmp_path / "eval.jsonl", [*texts(2), {"text": "a", "label": "ugly"}])
    with pytest.raises(InputError, match=r"eval\.jsonl: line 3: label 'ugly': expected one of the training labels: "):
        train(tiny_model("bert"), "ia3", "text-classification", data, tmp_path / "out", eval=other)


@pytest.mark.parametrize("evaluates", [True, False])
def test_divergence_is_an_error_not_an_adapter(trained: Trained, tmp_path: Path, evaluates: bool) -> None:
    with pytest.raises(InputError, match=r"training diverged: .* lower --learning-rate \(it was 1e\+30\)"):
        trained("bert", epochs=3, learning_rate=1e30, method="bottleneck", eval=evaluates)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_full_output_is_refused_before_any_work_and_replaced_by_force(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = contents(trained("bert", max_steps=1).output)
    with monkeypatch.context() as patch:
        patch.setattr("adapter_export.training.train.read_table", None)
        with pytest.raises(OutputExists, match="already holds something"):
            trained("bert", max_steps=2)
    with pytest.raises(InputError, match="diverged"):
        trained("bert", epochs=3, learning_rate=1e30, method="bottleneck", eval=True, force=True)
    assert contents(tmp_path / "adapter") == first
    assert set(contents(trained("bert", method="bottleneck", max_steps=2, force=True).output)) != set(first)
