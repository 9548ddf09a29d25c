"""A model with an adapter in PyTorch is what a bundle computes."""

from __future__ import annotations

import numpy as np
import pytest

from adapter_export import AdapterSession, InputError, load_pytorch
from tests.bundles import Exported

INPUTS = {"input_ids": np.array([[5, 9, 4, 20], [7, 8, 3, 2]]), "attention_mask": np.ones((2, 4), np.int64)}


def test_an_adapter_with_its_head(swappable_bundle: Exported) -> None:
    import torch

    inputs = {**INPUTS, "token_type_ids": np.zeros((2, 4), np.int64)}
    with AdapterSession(swappable_bundle.bundle) as session:
        for name, folder in swappable_bundle.adapters.items():
            model = load_pytorch(swappable_bundle.base, folder)
            expected = session.run({key: inputs[key] for key in session.manifest.inputs}, name)["logits"]
            with torch.inference_mode():
                found = model(**{key: torch.tensor(value) for key, value in inputs.items()}).logits.numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
            assert tuple(model.config.id2label.values()) == session.labels(name)
            assert not any(value.requires_grad for value in model.parameters())


def test_the_base_model_alone(llama_bundle: Exported) -> None:
    import torch

    ids = torch.tensor([[5, 9, 4]])
    with torch.inference_mode():
        plain = load_pytorch(llama_bundle.base)(ids).logits
        adapted = load_pytorch(llama_bundle.base, llama_bundle.adapters["ia3"])(ids).logits
        features = load_pytorch(llama_bundle.base, task="features")(ids)
    assert not torch.allclose(plain, adapted)
    assert "logits" not in features


def test_refusals(swappable_bundle: Exported) -> None:
    with pytest.raises(InputError, match="contradicts --task causal-lm"):
        load_pytorch(swappable_bundle.base, swappable_bundle.adapters["ia3_two"], task="causal-lm")
    with pytest.raises(InputError, match="model nowhere: "):
        load_pytorch("nowhere")
