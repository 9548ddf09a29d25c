"""What a decoder learns to write: tokens of prompts and completions, where they meet, and how they end."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from adapter_export.basemodel import BaseModel
from adapter_export.training.data import prepare
from adapter_export.training.metrics import IGNORED
from adapter_export.training.tables import Table
from adapter_export.training.train import TrainResult, train
from tests.tiny import SEP, WORDS
from tests.training.conftest import write_jsonl

GOOD, NIGHT, OLD, DOG = (4 + WORDS.index(word) for word in ("good", "night", "old", "dog"))
END = 0


def table(*rows: tuple[str, str]) -> Table:
    texts, completions = zip(*rows, strict=True)
    return Table(Path("data.jsonl"), texts, completions, [f"line {i + 1}" for i in range(len(rows))])


ROWS = table(("good night", " old"), ("old", " dog night good"))


def test_the_completion_is_learned_after_its_prompt(tiny_base: Callable[..., BaseModel]) -> None:
    data = prepare(tiny_base("gpt2", "causal-lm"), ROWS)
    batch = data.collate(data.train.rows)
    assert batch["input_ids"].tolist() == [[GOOD, NIGHT, OLD, SEP, 0], [OLD, DOG, NIGHT, GOOD, SEP]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    x = IGNORED
    assert batch["labels"].tolist() == [[x, OLD, SEP, x, x], [DOG, NIGHT, GOOD, SEP, x]]
    assert (data.train.lengths, data.truncated, data.left_out) == ([4, 5], 0, 0)


@pytest.fixture
def taught(tiny_model: Callable[..., Path], tmp_path: Path) -> Callable[..., TrainResult]:
    """Called as (rows, output, **settings): IA3 in a tiny LLaMA learns these completions, and is evaluated on them."""

    def run(rows: Table, output: str, **settings: Any) -> TrainResult:
        pairs = [
            dict(zip(("prompt", "completion"), pair, strict=True))
            for pair in zip(rows.texts, rows.labels or (), strict=True)
        ]
        data = write_jsonl(tmp_path / "data.jsonl", pairs)
        return train(
            tiny_model("llama", "causal-lm"), "ia3", "causal-lm", data, tmp_path / output, eval=data, **settings
        )

    return run


def test_the_loss_is_that_of_the_completions_tokens(
    taught: Callable[..., TrainResult], tiny_base: Callable[..., BaseModel]
) -> None:
    """Against float64 by hand: log p of each counted token, from a forward pass over its row alone."""
    oracle = tiny_base("llama", "causal-lm", dtype=torch.float64).module
    losses: list[float] = []
    for ids, start in (
        ([GOOD, NIGHT, OLD, SEP], 2),
        ([OLD, DOG, NIGHT, GOOD, OLD, GOOD, SEP], 1),
        ([DOG, NIGHT, GOOD, SEP], 1),
    ):
        with torch.no_grad():
            logits = oracle(torch.tensor([ids])).logits[0].numpy()
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        losses += [-log_p[at - 1, ids[at]] for at in range(start, len(ids))]
    assert len(losses) == 2 + 6 + 3
    loss = float(np.mean(losses))

    # A fresh IA3 is the identity, and the only update changes nothing. Evaluated in batches of two rows and one.
    rows = table(("good night", " old"), ("old", " dog night good old good"), ("dog", " night good"))
    result = taught(rows, "out", learning_rate=1e-30, batch_size=2, max_steps=1)
    assert result.metrics["loss"] == pytest.approx(loss, rel=1e-6)
    assert result.metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)
    whole = taught(rows, "whole", learning_rate=1e-30, batch_size=3, max_steps=1)
    assert whole.loss == pytest.approx(loss, rel=1e-6), "the loss that is trained on"


def test_an_update_in_parts_weighs_tokens_not_parts(taught: Callable[..., TrainResult]) -> None:
    """One completion of thirty tokens beside three of one: as two batches of two, and as one of four."""
    long = " ".join(WORDS[20:50])
    rows = table(("good", f" {long}"), ("night old", " dog"), ("dog", " night"), ("old good", " good"))
    whole = taught(rows, "whole", batch_size=4, max_steps=6, learning_rate=1e-2)
    parts = taught(rows, "parts", batch_size=4, max_steps=6, learning_rate=1e-2, gradient_accumulation=2)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    stored = load_file(whole.output / "adapter_model.safetensors")
    assert all((tensor != 1).any() for tensor in stored.values())
    for name, tensor in load_file(parts.output / "adapter_model.safetensors").items():
        np.testing.assert_allclose(tensor, stored[name], atol=2e-5, err_msg=name)
