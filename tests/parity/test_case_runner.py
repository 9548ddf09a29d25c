"""What is compared without an adapter if the base model has no task head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adapter_export import check_parity, export_onnx
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.models.base_model import load_base
from adapter_export.parity import case_runner
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.report import NO_ADAPTER


@pytest.fixture(scope="module")
def exported(
    tiny_model: Callable[..., Path],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path, dict[str, Path]]:
    """A BART classifier over a base model without a head: bundle, base, adapters."""
    base = tiny_model("bart")
    info = load_base(base, "text-classification").info
    adapters = {"a": save_checkpoint(random_adapter(info, "ia3", 1, labels=("no", "yes")), info)}
    bundle = tmp_path_factory.mktemp("bart") / "bundle"
    export_onnx(base, adapters, bundle, mode="swappable")
    return bundle, base, adapters


def test_finding_13_only_the_labels_are_empty(exported: tuple[Path, Path, dict[str, Path]]) -> None:
    bundle, base, adapters = exported
    report = check_parity(bundle, base, adapters)
    assert report.verdict is Verdict.PASS
    outputs = {result.output for result in report.results if result.adapter == NO_ADAPTER}
    assert {"logits", "encoder_last_hidden_state"} <= outputs


def test_outputs_of_the_body_are_compared(
    exported: tuple[Path, Path, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small error of the body is detected, although there are no labels."""
    bundle, base, adapters = exported
    attempt = case_runner.attempt

    def off(run: Callable[..., object], inputs: dict[str, np.ndarray], name: str | None) -> object:
        outputs = attempt(run, inputs, name)
        if name is None and isinstance(outputs, dict):
            outputs = {key: value * np.float32(1.001) for key, value in outputs.items()}
        return outputs

    monkeypatch.setattr(case_runner, "attempt", off)
    report = check_parity(bundle, base, adapters)
    failed = {(result.adapter, result.output) for result in report.results if result.judgement.verdict is Verdict.FAIL}
    assert (NO_ADAPTER, "encoder_last_hidden_state") in failed
    assert all(adapter == NO_ADAPTER for adapter, _ in failed)
