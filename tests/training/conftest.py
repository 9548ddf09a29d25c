"""Training data that a tiny model can learn from, and runs of `train` on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.training.train import TrainResult, train

# For subprocesses, as `one_thread` does for this one.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

CLASSES = ("bad", "good", "so-so")
# A class shows in one word of its texts.
_SIGNS = ("terrible", "lovely", "boring")
_FILLING = ("a", "the", "was", "movie", "story", "and", "it", "that", "he", "they", "on", "day", "night", "man", "dog")


def texts(rows: int, task: str = "text-classification", seed: int = 0) -> list[dict[str, str]]:
    """Rows with `text` and `label`: a class, or for seq2seq-lm the text's words backwards."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(rows):
        words = [*rng.choice(_FILLING, rng.integers(1, 9)), _SIGNS[i % 3]]
        label = CLASSES[i % 3] if task == "text-classification" else " ".join(words[::-1])
        made.append({"text": " ".join(words), "label": label})
    return made


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from more threads, which on a busy machine wait for each other most of the time."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def trained(tiny_model: Callable[..., Path], tmp_path: Path) -> Callable[..., TrainResult]:
    """Called as (model_type, task="text-classification", method="ia3", rows=24, output="adapter", **settings).

    Trains the tiny model on `rows` texts, into tmp_path/output; evaluates on others where settings have `eval=True`.
    """

    def run(
        model_type: str,
        task: str = "text-classification",
        method: str = "ia3",
        rows: int = 24,
        output: str = "adapter",
        **settings: Any,
    ) -> TrainResult:
        data = write_jsonl(tmp_path / "train.jsonl", texts(rows, task))
        if settings.pop("eval", False):
            settings["eval"] = write_jsonl(tmp_path / "eval.jsonl", texts(15, task, seed=1))
        return train(tiny_model(model_type, task), method, task, data, tmp_path / output, **settings)

    return run
