"""Sites that no output of a task's class reads: the rest of the adapter is served, and they are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers

from adapter_export.export.export import export_onnx
from adapter_export.models.base_model import load_base
from adapter_export.runtime.session import AdapterSession
from tests.checkpoints import oracle

IDLE = "vision_model.head.mlp.fc2"
_LAYERS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}


def test_a_pooling_layer_that_the_classifier_runs_past(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SigLIP's classifier of images takes the mean of the patches; PEFT adapts the layer of its body's own output."""
    config = transformers.SiglipConfig(
        vision_config={**_LAYERS, "image_size": 16, "patch_size": 8}, text_config={**_LAYERS, "vocab_size": 99},
        num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    transformers.SiglipForImageClassification(config).save_pretrained(model)
    places = {"target_modules": ["k_proj", "v_proj", "fc2"], "feedforward_modules": ["fc2"]}
    oracle.train(load_base(model, "image-classification"), adapter, modules_to_save=["classifier"], **places)
    manifest = export_onnx(model, {"a": adapter}, tmp_path / "bundle", mode="swappable")
    assert IDLE not in {site.module for site in manifest.sites}
    assert f"no output of the graph reads {IDLE}.input: left out, without effect" in caplog.text
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    whole = peft.PeftModel.from_pretrained(transformers.SiglipForImageClassification.from_pretrained(model), adapter)
    with torch.inference_mode():
        expected = whole.double().eval()(pixel_values=torch.from_numpy(images).double()).logits.numpy()
    with AdapterSession(tmp_path / "bundle") as session:
        found = session.run({"pixel_values": images}, adapter="a")["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
