"""Metrics by hand-set numbers, and the loss by transformers' own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from adapter_export.models.base_model import BaseModel
from adapter_export.training.metrics import IGNORED, classification_metrics, language_metrics, row_statistics


def test_classification_by_hand() -> None:
    # F1 of 0 is 4/5 and of 1 is 2/3; 2 is only predicted and 3 only true, so theirs are 0.
    rows = np.array([[0.5, 1, p, t] for p, t in zip((0, 0, 1, 1, 2), (0, 0, 0, 1, 3), strict=True)], np.float32)
    assert classification_metrics(rows) == pytest.approx(
        {"loss": 0.5, "accuracy": 3 / 5, "macro_f1": (4 / 5 + 2 / 3) / 4}
    )


def test_perplexity_weighs_tokens_not_rows() -> None:
    rows = np.array([[1.0, 1, 0, 0], [18.0, 9, 0, 0]], np.float32)
    assert language_metrics(rows) == pytest.approx({"loss": 1.9, "perplexity": math.exp(1.9)})
    assert language_metrics(np.array([[1e6, 1, 0, 0]]))["perplexity"] == math.inf


def test_a_classifiers_loss_is_transformers_own(
    tiny_base: Callable[..., BaseModel], inputs_for: Callable[..., dict[str, Any]]
) -> None:
    base = tiny_base("bert", "text-classification")
    inputs = {name: torch.from_numpy(value) for name, value in inputs_for("bert").items()}
    labels = torch.tensor([2, 0, 1])
    with torch.no_grad():
        output = base.module(**inputs, labels=labels)
    rows = row_statistics(output.logits, labels)
    assert torch.allclose(rows[:, 0].mean(), output.loss)
    assert rows[:, 1].tolist() == [1, 1, 1]
    assert rows[:, 2].tolist() == output.logits.argmax(-1).tolist()
    assert rows[:, 3].tolist() == [2, 0, 1]


def test_a_language_models_loss_is_transformers_own(
    tiny_base: Callable[..., BaseModel], inputs_for: Callable[..., dict[str, Any]]
) -> None:
    base = tiny_base("gpt2", "causal-lm")
    inputs = {name: torch.from_numpy(value) for name, value in inputs_for("gpt2").items()}
    theirs = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)
    with torch.no_grad():
        output = base.module(**inputs, labels=theirs)
    ours = torch.cat([theirs[:, 1:], torch.full_like(theirs[:, :1], IGNORED)], dim=1)
    rows = row_statistics(output.logits, ours)
    assert rows[:, 1].tolist() == [6, 5, 4]
    assert torch.allclose(rows[:, 0].sum() / rows[:, 1].sum(), output.loss)
