"""BART keeps the values of its encoder in the range of float16, also in a graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from adapter_export import AdapterSession, check_parity, export_onnx
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.models.base_model import load_base
from adapter_export.parity.criteria.judge import Verdict

# What transformers clamps to: the largest number of float16, less 1000.
LARGEST = float(np.float16(65504 - 1000))


def test_parity_of_float16_passes(
    tiny_model: Callable[..., Path],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    model = tiny_model("bart", "features")
    info = load_base(model, "features").info
    adapters = {"ia3": save_checkpoint(random_adapter(info, "ia3"), info)}
    export_onnx(model, adapters, tmp_path / "bundle", mode="swappable", task="features", dtype="fp16")
    report = check_parity(tmp_path / "bundle", model, adapters)
    assert report.verdict is Verdict.PASS, [result.judgement.reasons for result in report.results]


def test_what_overflows_is_clamped_as_in_pytorch(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    base = load_base(tiny_model("bart", "features"), "features")
    last = base.module.encoder.layers[-1].final_layer_norm
    with torch.no_grad():
        last.weight.fill_(60000.0)
    base.module.save_pretrained(tmp_path / "model")
    export_onnx(tmp_path / "model", {}, tmp_path / "bundle", mode="merged", task="features", dtype="fp16")
    half = load_base(tmp_path / "model", "features", dtype=torch.float16).module
    ids = np.array([[5, 9, 7, 11, 20, 2]])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    with torch.no_grad():
        wanted = half(**{name: torch.from_numpy(value) for name, value in inputs.items()}).encoder_last_hidden_state
    with AdapterSession(tmp_path / "bundle") as session:
        given = {name: inputs[name.removeprefix("decoder_")] for name in session.manifest.inputs}
        found = session.run(given)["encoder_last_hidden_state"]
    clamped = np.abs(wanted.numpy().astype(np.float64)) >= LARGEST
    assert clamped.any()
    assert not clamped.all()
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(np.abs(found[clamped]), LARGEST)
    np.testing.assert_allclose(found[~clamped], wanted.float().numpy()[~clamped], rtol=0.01, atol=200)
