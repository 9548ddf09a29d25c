"""Half precision beside a base model's own task head, and where a model computes in float32 all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.export.export import export_onnx
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import inject
from adapter_export.runtime.session import AdapterSession
from tests.checkpoints import oracle


@pytest.mark.parametrize("settings", [{"mode": "bank"}, {"mode": "swappable", "bind": "input"}])
def test_rows_without_an_adapter_have_the_base_models_head(
    settings: dict[str, str],
    tiny_base: Callable[..., BaseModel],
    tiny_model: Callable[..., Path],
    inputs_for: Callable[..., dict[str, np.ndarray]],
    tmp_path: Path,
) -> None:
    base, inputs = tiny_base("bert", "text-classification", num_labels=3), inputs_for("bert")
    inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
    oracle.train(base, tmp_path / "a", task_type="SEQ_CLS")
    model = tiny_model("bert", "text-classification")
    export_onnx(model, {"a": tmp_path / "a"}, tmp_path / "bundle", dtype="fp16", **settings)  # type: ignore[arg-type]
    expected = oracle.by_peft(base, tmp_path / "a", inputs), oracle.run(base.module.double(), inputs)
    with AdapterSession(tmp_path / "bundle") as session:
        found = [session.run(inputs, adapter=name)["logits"] for name in ("a", None)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-2 * np.abs(theirs).max())


def test_a_bottleneck_where_t5_keeps_float32(
    tiny_model: Callable[..., Path], random_adapter: Callable[..., Adapter], inputs_for: Callable[..., object]
) -> None:
    """The second layer of T5's feed-forward stays in float32 in a model of half precision."""
    found = []
    for dtype in (torch.float16, torch.float64):
        base = load_base(tiny_model("t5", "seq2seq-lm"), "seq2seq-lm", dtype=dtype)
        inject(base.module, random_adapter(base.info, "bottleneck", 3))
        found.append(oracle.run(base.module, inputs_for("t5")))  # type: ignore[arg-type]
    half, exact = found
    np.testing.assert_allclose(half, exact, atol=3e-2 * np.abs(exact).max())
