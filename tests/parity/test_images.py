"""CLIP under parity: images beside texts, and a class for images that is its own base model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_export.basemodel import BaseModel
from adapter_export.export.export import export_onnx
from adapter_export.parity import live
from adapter_export.parity.cases import Case
from adapter_export.parity.check import check_parity
from adapter_export.parity.judge import Verdict
from tests.checkpoints import oracle

PLACES = {"target_modules": ["k_proj", "v_proj", "fc2"], "feedforward_modules": ["fc2"]}
HEAD = {"modules_to_save": ["classifier"]}


@pytest.mark.parametrize(
    ("trained_on", "model_task", "settings", "cases"),
    [
        # Of two texts and three images, all are judged.
        ("features", "features", {}, [Case(2, 5, "left"), Case(1, 3)]),
        # Finding 1: a head that tells the task, over a base model with none.
        ("image-classification", "features", HEAD, [Case(1), Case(2)]),
        # And over one whose own head has as many classes, which T must not be judged by.
        ("image-classification", "image-classification", HEAD, [Case(1), Case(2)]),
    ],
)
def test_a_right_bundle(
    trained_on: str,
    model_task: str,
    settings: dict[str, list[str]],
    cases: list[Case],
    tiny_base: Callable[..., BaseModel],
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "cases_for", lambda *_: cases)
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
