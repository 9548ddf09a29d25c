"""CLIP: texts with images, and a model class for images that is its own base model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.export.export import export_onnx
from adapter_export.models.base_model import BaseModel
from adapter_export.parity import pytorch_models
from adapter_export.parity.cases import ParityCase
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.recording.recorder import record
from adapter_export.parity.run import check_parity
from tests.checkpoints import oracle

PLACES = {"target_modules": ["k_proj", "v_proj", "fc2"], "feedforward_modules": ["fc2"]}
HEAD = {"modules_to_save": ["classifier"]}


@pytest.mark.parametrize(
    ("trained_on", "model_task", "settings", "cases"),
    [
        # Two texts and three images are all judged.
        ("features", "features", {}, [ParityCase(2, 5, "left"), ParityCase(1, 3)]),
        # The head determines the task; the base model has no head.
        ("image-classification", "features", HEAD, [ParityCase(1), ParityCase(2)]),
        # The base model has a head with as many classes; T must not use it.
        ("image-classification", "image-classification", HEAD, [ParityCase(1), ParityCase(2)]),
    ],
)
def test_a_right_bundle(
    trained_on: str,
    model_task: str,
    settings: dict[str, list[str]],
    cases: list[ParityCase],
    tiny_base: Callable[..., BaseModel],
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pytorch_models, "cases_for", lambda *_: cases)
    oracle.train(tiny_base("clip", trained_on, num_labels=3), tmp_path / "a", **PLACES, **settings)
    model = tiny_model("clip", model_task)
    manifest = export_onnx(model, {"a": tmp_path / "a"}, tmp_path / "bundle", mode="swappable")
    assert manifest.task == trained_on
    report = check_parity(tmp_path / "bundle", model, {"a": tmp_path / "a"})
    assert report.verdict is Verdict.PASS, [report.checks, *[item.judgement for item in report.results]]
    assert report.witnesses["a"].startswith("peft ")
    errors = [item.judgement.target_error for item in report.of("a")]
    assert all(error is not None and error.max < 1e-5 for error in errors)
    found = {(check.name, check.verdict) for check in report.checks}
    assert ("base", Verdict.PASS) in found
    if trained_on == "features":
        judged_by_records(tmp_path / "bundle", model, tmp_path / "a")


def judged_by_records(bundle: Path, model: Path, adapter: Path) -> None:
    """In transformers 4 `vision_model_output.pooler_output` is another tensor, so nested outputs are not compared."""
    arrays: dict[str, Any] = record(model, adapter)
    others = {name: np.zeros(3) if "pooler_output" in name else value for name, value in arrays.items()}
    wrong = {name: value + 0.1 if name.endswith("/text_embeds") else value for name, value in arrays.items()}
    for number, (found, verdict) in enumerate(((others, Verdict.PASS), (wrong, Verdict.FAIL))):
        file = bundle.with_name(f"{number}.npz")
        np.savez(file, **found)
        report = check_parity(bundle, references={"a": file})
        assert report.verdict is verdict
        assert {item.output for item in report.of("a")} == {
            "logits_per_image", "logits_per_text", "text_embeds", "image_embeds"
        }  # fmt: skip
        assert "and not on text_model_output.last_hidden_state, " in report.notes[0]
