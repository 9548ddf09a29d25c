"""What a checkpoint tells of its task, on adapters that PEFT saved; heads are served or refused, never
dropped and never taken for another task's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export.bundle.add import add_adapter
from adapter_export.checkpoints.folder import read_checkpoint
from adapter_export.checkpoints.stated_task import StatedTask, choose_task, stated_task
from adapter_export.errors import InputError
from adapter_export.export.export import export_onnx
from adapter_export.merging.merge import merge
from adapter_export.models.quiet import quiet
from adapter_export.reading.json_files import read_json
from tests.checkpoints.oracle import train

TinyModel = Callable[..., Path]

KEYS = r".*\.(k|v|key|value|k_proj|v_proj|k_lin|v_lin|c_attn|Wqkv|key_proj)"
ALL: dict[str, Any] = {"target_modules": KEYS, "feedforward_modules": []}
TEXT, IMAGE, TOKENS = "text-classification", "image-classification", "token-classification"
CLASSIFIER = {"modules_to_save": ["classifier"]}


@pytest.fixture
def trained(tiny_model: TinyModel, tmp_path: Path) -> Callable[..., Path]:
    """Called as (model_type, auto_class, **PEFT's settings) -> folder of an adapter for the tiny base model, trained in
    that class of transformers."""

    def make(model_type: str, auto_class: str, **settings: Any) -> Path:
        import torch
        import transformers

        torch.manual_seed(1)
        with quiet():
            model = getattr(transformers, auto_class).from_pretrained(tiny_model(model_type))
        folder = tmp_path / f"{model_type}-{len(list(tmp_path.iterdir()))}"
        train(SimpleNamespace(module=model), folder, **{**ALL, **settings})  # type: ignore[arg-type]
        return folder

    return make


# model_type, class, PEFT's settings, what that tells
CASES: list[tuple[str, str, dict[str, Any], str | None]] = [
    ("bert", "AutoModelForTokenClassification", {"task_type": "TOKEN_CLS"}, TOKENS),
    ("bert", "AutoModelForQuestionAnswering", {"task_type": "QUESTION_ANS"}, "question-answering"),
    ("bert", "AutoModelForQuestionAnswering", {"modules_to_save": ["qa_outputs"]}, "question-answering"),
    ("bert", "AutoModelForSequenceClassification", CLASSIFIER, TEXT),
    ("bert", "AutoModelForSequenceClassification", {"task_type": "SEQ_CLS"}, TEXT),
    ("distilbert", "AutoModelForSequenceClassification", CLASSIFIER, TEXT),
    ("roberta", "AutoModelForSequenceClassification", CLASSIFIER, TEXT),
    ("roberta", "AutoModelForTokenClassification", CLASSIFIER, TOKENS),
    ("electra", "AutoModelForTokenClassification", CLASSIFIER, TOKENS),
    ("vit", "AutoModelForImageClassification", CLASSIFIER, IMAGE),
    ("vit", "AutoModelForImageClassification", {"task_type": "SEQ_CLS"}, IMAGE),
    ("dinov2", "AutoModelForImageClassification", CLASSIFIER, IMAGE),
    ("llama", "AutoModelForSequenceClassification", {"modules_to_save": ["score"]}, TEXT),
    ("llama", "AutoModelForTokenClassification", {"modules_to_save": ["score"]}, TOKENS),
    ("bart", "AutoModelForSequenceClassification", {"modules_to_save": ["classification_head"]}, TEXT),
    ("t5", "AutoModelForSequenceClassification", {"modules_to_save": ["classification_head"]}, TEXT),
    ("bert", "AutoModel", {}, None),
    ("bert", "AutoModel", {"task_type": "FEATURE_EXTRACTION"}, "features"),
    ("llama", "AutoModelForCausalLM", {"modules_to_save": ["lm_head"]}, "causal-lm"),
]


@pytest.mark.parametrize(("model_type", "auto_class", "settings", "task"), CASES)
def test_the_task_of_a_checkpoint(
    model_type: str, auto_class: str, settings: dict[str, Any], task: str | None,
    trained: Callable[..., Path], tiny_model: TinyModel,
) -> None:  # fmt: skip
    checkpoint = read_checkpoint(trained(model_type, auto_class, **settings))
    assert stated_task(checkpoint, read_json(tiny_model(model_type) / "config.json")).task == task


REFUSED = [case for case in CASES if case[3] in (TOKENS, "question-answering")]


@pytest.mark.parametrize(("model_type", "auto_class", "settings", "task"), REFUSED)
def test_a_head_of_another_kind_is_refused_by_name(
    model_type: str, auto_class: str, settings: dict[str, Any], task: str,
    trained: Callable[..., Path], tiny_model: TinyModel, tmp_path: Path,
) -> None:  # fmt: skip
    adapter, base = trained(model_type, auto_class, **settings), tiny_model(model_type)
    expected = f"a head for {task}, which is not served yet"
    for mode in ("merged", "embedded", "swappable", "bank"):
        for asked in ("auto", TEXT):
            with pytest.raises(InputError, match=f"adapter a: .*{expected}"):
                export_onnx(base, {"a": adapter}, tmp_path / "out", mode=mode, task=asked)
    for asked in ("auto", TEXT):
        with pytest.raises(InputError, match=expected):
            merge(base, adapter, tmp_path / "out", task=asked)
    assert not (tmp_path / "out").exists()


def test_beside_a_text_classifier(
    trained: Callable[..., Path], tiny_model: TinyModel, classifier_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    tokens = trained("bert", "AutoModelForTokenClassification", task_type="TOKEN_CLS")
    for names in (["text", "tokens"], ["tokens", "text"]):
        adapters = {name: tokens if name == "tokens" else classifier_checkpoints["ia3_two"] for name in names}
        with pytest.raises(InputError, match="adapter tokens: task_type 'TOKEN_CLS': found a head for token-class"):
            export_onnx(tiny_model("bert"), adapters, tmp_path / "out", mode="swappable")


def test_added_to_text_classifiers(trained: Callable[..., Path], swappable_bundle: Any, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle"))
    before = (bundle / "manifest.json").read_bytes()
    tokens = trained("bert", "AutoModelForTokenClassification", task_type="TOKEN_CLS")
    with pytest.raises(InputError, match="adapter x: task_type 'TOKEN_CLS': found a head for token-classification"):
        add_adapter(bundle, {"x": tokens})
    body = trained("bert", "AutoModel", task_type="FEATURE_EXTRACTION")
    with pytest.raises(InputError, match=r"adapter x: was trained for features .* contradicts the bundle's task text"):
        add_adapter(bundle, {"x": body})
    assert (bundle / "manifest.json").read_bytes() == before


def test_the_class_of_the_base_model_decides_where_names_do_not(
    trained: Callable[..., Path], tiny_model: TinyModel
) -> None:
    checkpoint = read_checkpoint(trained("bert", "AutoModelForTokenClassification", **CLASSIFIER))
    config = read_json(tiny_model("bert") / "config.json")
    assert stated_task(checkpoint, {**config, "architectures": ["BertForTokenClassification"]}).task == TOKENS


def test_a_config_that_contradicts_the_head(trained: Callable[..., Path], tiny_model: TinyModel) -> None:
    folder = trained("bert", "AutoModelForSequenceClassification", **CLASSIFIER)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "task_type": "FEATURE_EXTRACTION"}))
    one = {"a": stated_task(read_checkpoint(folder), read_json(tiny_model("bert") / "config.json"))}
    for asked in ("auto", TEXT):
        with pytest.raises(InputError, match=r"a: task_type 'FEATURE_EXTRACTION' contradicts the task head"):
            choose_task(asked, one, {})
    assert choose_task("features", one, {}) == "features"


def test_two_files_that_contradict_each_other(trained: Callable[..., Path], tiny_model: TinyModel) -> None:
    folder = trained("bert", "AutoModelForTokenClassification", task_type="TOKEN_CLS")
    (folder / "adapter_export.json").write_text(json.dumps({"task": TEXT}))
    one = {"a": stated_task(read_checkpoint(folder), read_json(tiny_model("bert") / "config.json"))}
    with pytest.raises(InputError, match=r"a: task 'text-classification' in .* contradicts task_type 'TOKEN_CLS'"):
        choose_task("auto", one, {})


def test_a_module_that_no_class_is_known_for(
    trained: Callable[..., Path], tiny_model: TinyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A reward model's value head, say: neither dropped nor listed."""
    folder = trained("llama", "AutoModelForCausalLM", task_type="CAUSAL_LM")
    file = folder / "adapter_model.safetensors"
    save_file({**load_file(file), "base_model.model.v_head.summary.weight": np.ones((1, 32), np.float32)}, file)
    base = tiny_model("llama", "causal-lm")
    with pytest.raises(InputError, match=r"v_head\.summary: saved with the adapter, and a model for causal-lm"):
        export_onnx(base, {"a": folder}, tmp_path / "out", mode="swappable")
    with pytest.raises(InputError, match=r"v_head\.summary: saved with the adapter, and .*--task features"):
        merge(base, folder, tmp_path / "out")
    body = tiny_model("llama")
    merge(body, folder, tmp_path / "merged", task="features")
    assert "its task head (v_head.summary) is left out" in caplog.text


def test_an_unknown_task_type(trained: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained("bert", "AutoModel"), tmp_path / "copy"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "task_type": "SOUND_CLS"}))
    with pytest.raises(InputError, match=r"field 'task_type': expected one of .*, found 'SOUND_CLS'"):
        read_checkpoint(folder)


def test_what_the_user_asks_for() -> None:
    text, features, silent = (
        StatedTask(TEXT, "task_type 'SEQ_CLS'", ("classifier",)),
        StatedTask("features"),
        StatedTask(),
    )
    assert choose_task("auto", {"a": text, "b": silent}, {}) == TEXT
    assert choose_task("auto", {"a": silent}, {}) is None
    assert choose_task("features", {"a": text, "b": StatedTask(TOKENS, "", ("classifier",))}, {}) == "features"
    assert choose_task(TEXT, {"a": text, "b": silent}, {}) == TEXT
    assert choose_task(TEXT, {"a": StatedTask(None, "", ("classifier",))}, {}) == TEXT
    with pytest.raises(InputError, match=r"adapter a: was trained for text-class.* contradicts --task causal"):
        choose_task("causal-lm", {"a": text}, {})
    with pytest.raises(InputError, match=r"different tasks \(a: text-classification, b: features\)"):
        choose_task("auto", {"a": text, "b": features}, {})
    with pytest.raises(InputError, match=r"its task head \(classifier\) does not tell the task of a new model; choose"):
        choose_task("auto", {"a": StatedTask(None, "", ("classifier",))}, {"model_type": "new"})
    with pytest.raises(InputError, match="task 'token-classification': found a head for"):
        choose_task(TOKENS, {"a": silent}, {})
