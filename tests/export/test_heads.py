"""Heads and their class names from PEFT's checkpoints to bundles and merged models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from adapter_export import AdapterSession, check_parity, export_onnx, merge
from adapter_export.bundle.manifest import read_manifest
from adapter_export.cli.main import main
from adapter_export.models.quiet import quiet
from adapter_export.parity.criteria.judge import Verdict
from tests.checkpoints.oracle import train

KEYS = {"target_modules": r".*\.(key|value|k_proj|v_proj)", "feedforward_modules": []}
NAMES = ("left", "middle", "right")


def adapter_of(folder: Path, model: Path, auto_class: str, seed: int = 0, **settings: Any) -> Any:
    """Save an adapter that PEFT made for the model; returns the model in that class."""
    import transformers

    with quiet():
        module = getattr(transformers, auto_class).from_pretrained(model)
    train(SimpleNamespace(module=module), folder, seed, **{**KEYS, **settings})  # type: ignore[arg-type]
    return module


@pytest.fixture(scope="module")
def named_base(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named") / "base"
    shutil.copytree(tiny_model("bert", "text-classification"), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def adapter(named_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, without names, as PEFT saves them."""
    folder = tmp_path_factory.mktemp("peft") / "adapter"
    adapter_of(folder, named_base, "AutoModelForSequenceClassification", task_type="SEQ_CLS")
    return folder


def test_names_in_a_bundle(named_base: Path, adapter: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    (tmp_path / "names").write_text("north\neast\nsouth\n")
    arguments = ["--model", str(named_base), "--mode", "swappable", "--output", str(bundle)]
    arguments += ["--adapter", f"plain={adapter}", "--adapter", f"given={adapter}"]
    done = CliRunner().invoke(main, ["onnx", *arguments, "--labels", f"given=@{tmp_path / 'names'}"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(
        main, ["add", "--bundle", str(bundle), "--adapter", f"added={adapter}", "--labels", "up,down,none"]
    )
    assert done.exit_code == 0, done.output
    manifest = read_manifest(bundle)
    assert {info.name: info.labels for info in manifest.adapters} == {
        "plain": NAMES,
        "given": ("north", "east", "south"),
        "added": ("up", "down", "none"),
    }
    assert manifest.labels == NAMES
    with AdapterSession(bundle) as session:
        assert session.labels("added") == ("up", "down", "none")
    # Names that the user gave are no fault of the bundle.
    report = check_parity(bundle, named_base, dict.fromkeys(("plain", "given", "added"), adapter))
    assert report.verdict is Verdict.PASS

    before = (bundle / "manifest.json").read_bytes()
    for labels, message in (("a,b", "2 label names for a head of 3"), ("a,b,a", "found 'a' twice")):
        done = CliRunner().invoke(
            main, ["add", "--bundle", str(bundle), "--adapter", f"other={adapter}", "--labels", labels]
        )
        assert done.exit_code == 2
        assert message in done.output
    assert (bundle / "manifest.json").read_bytes() == before


def test_names_in_a_merged_model(named_base: Path, adapter: Path, tmp_path: Path) -> None:
    merge(named_base, adapter, tmp_path / "kept")
    assert json.loads((tmp_path / "kept" / "config.json").read_text())["id2label"] == dict(
        zip("012", NAMES, strict=True)
    )
    arguments = ["--model", str(named_base), "--adapter", str(adapter), "--output", str(tmp_path / "given")]
    done = CliRunner().invoke(main, ["merge", *arguments, "--labels", "a,b,c"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "given" / "config.json").read_text())["label2id"] == {"a": 0, "b": 1, "c": 2}
    done = CliRunner().invoke(main, ["merge", *arguments, "--force", "--labels", "other=a,b,c"])
    assert done.exit_code == 2
    assert "expected one of the adapters (adapter)" in done.output


def test_merge_puts_a_head_where_it_was_trained(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """Into a model saved without one, by the head alone; against PEFT."""
    import peft
    import torch
    import transformers

    base = tiny_model("bert")
    model = adapter_of(tmp_path / "adapter", base, "AutoModelForSequenceClassification", modules_to_save=["classifier"])
    merge(base, tmp_path / "adapter", tmp_path / "merged")
    ids = torch.tensor([[2, 5, 9, 20, 3]])
    with torch.no_grad():
        expected = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()(input_ids=ids).logits
        merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
        assert torch.allclose(merged(input_ids=ids).logits, expected, atol=1e-5)


def test_a_head_is_left_out_on_request(
    tiny_model: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The body is right, against PEFT; no class names are listed; a note says what is missing."""
    import peft
    import torch

    base = tiny_model("bert")
    model = adapter_of(tmp_path / "adapter", base, "AutoModelForTokenClassification", task_type="TOKEN_CLS")
    export_onnx(base, {"a": tmp_path / "adapter"}, tmp_path / "bundle", mode="swappable", task="features")
    assert "its task head (classifier) is left out" in caplog.text
    assert read_manifest(tmp_path / "bundle").adapter("a").labels is None
    ids = np.array([[2, 5, 9, 20, 3]])
    whole = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    with torch.no_grad():
        expected = whole.base_model.model.bert(input_ids=torch.from_numpy(ids)).last_hidden_state.numpy()
    with AdapterSession(tmp_path / "bundle") as session:
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        found = session.run(given, adapter="a")["last_hidden_state"]
    np.testing.assert_allclose(found, expected, atol=1e-5)

    assert check_parity(tmp_path / "bundle", base, {"a": tmp_path / "adapter"}).verdict is Verdict.PASS

    merge(base, tmp_path / "adapter", tmp_path / "merged", task="features")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["architectures"] == ["BertModel"]


def test_finding_14_features_of_a_base_model_without_a_pooler(
    tiny_model: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """RoBERTa as a masked language model. PEFT's all-linear puts a vector on the pooler all the same, to no effect."""
    import transformers

    base = tmp_path / "base"
    with quiet():
        transformers.RobertaForMaskedLM.from_pretrained(tiny_model("roberta")).save_pretrained(base)
    adapter = tmp_path / "adapter"
    adapter_of(adapter, base, "AutoModel", target_modules="all-linear", task_type="FEATURE_EXTRACTION")
    manifest = export_onnx(base, {"a": adapter}, tmp_path / "bundle", mode="swappable")
    assert list(manifest.outputs) == ["last_hidden_state"]
    assert "output pooler_output is left out" in caplog.text
    assert "tensor 'pooler.dense.ia3_l' has no effect" in caplog.text
    assert check_parity(tmp_path / "bundle", base, {"a": adapter}).verdict is Verdict.PASS


@pytest.mark.parametrize("model_type", ["vit", "dinov2"])
def test_images_by_the_head_alone(
    model_type: str, tiny_model: Callable[..., Path], inputs_for: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    import peft
    import torch

    base = tiny_model(model_type)
    model = adapter_of(tmp_path / "adapter", base, "AutoModelForImageClassification", modules_to_save=["classifier"])
    manifest = export_onnx(base, {"a": tmp_path / "adapter"}, tmp_path / "bundle", mode="bank")
    assert manifest.task == "image-classification"
    inputs = inputs_for(model_type)
    with torch.no_grad():
        whole = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
        expected = whole.base_model.model(**{n: torch.from_numpy(value) for n, value in inputs.items()}).logits.numpy()
    with AdapterSession(tmp_path / "bundle") as session:
        found = session.run(inputs, adapters=["a"] * len(expected))["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_finding_2_one_folder_as_model_and_adapter(named_base: Path, tmp_path: Path) -> None:
    """The base model without the adapter, the adapter with: merged once, not twice."""
    import peft
    import torch
    import transformers

    folder, clean = tmp_path / "both", tmp_path / "clean"
    for target in (folder, clean):
        shutil.copytree(named_base, target)
    model = adapter_of(folder, clean, "AutoModelForSequenceClassification", task_type="SEQ_CLS")
    result = merge(folder, folder, tmp_path / "merged")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(result.left_out)
    ids = torch.tensor([[2, 5, 9, 20, 3]])
    with torch.no_grad():
        expected = peft.PeftModel.from_pretrained(model, folder).eval()(input_ids=ids).logits
        merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
        assert torch.allclose(merged(input_ids=ids).logits, expected, atol=1e-5)
