"""Several processes train what one would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from adapter_export.training.train import train
from tests.training.conftest import ONE_THREAD, texts, write_jsonl


def completions(rows: int, seed: int = 0) -> list[dict[str, str]]:
    """Every fifth is twenty words long and the rest are one: processes must be weighed by tokens, not alike."""
    made = [row["text"].split() for row in texts(rows, seed=seed)]
    return [
        {"prompt": words[0], "completion": f" {words[-1]}" * (20 if number % 5 == 0 else 1)}
        for number, words in enumerate(made)
    ]


@pytest.mark.parametrize(
    ("model_type", "task", "rows"),
    [("bert", "text-classification", texts), ("llama", "causal-lm", completions)],
)
def test_two_processes_give_the_result_of_one(
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    model_type: str,
    task: str,
    rows: Callable[..., list[dict[str, str]]],
) -> None:
    # 37 texts in updates of 8: no epoch divides evenly, and no update between two processes.
    data = write_jsonl(tmp_path / "train.jsonl", rows(37))
    evaluation = write_jsonl(tmp_path / "eval.jsonl", rows(7, seed=1))
    model, output = tiny_model(model_type, task), tmp_path / "two"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = {
        "model": model,
        "method": "ia3",
        "task": task,
        "train": data,
        "eval": evaluation,
        "output": output,
        "batch-size": 8,
        "gradient-accumulation": 2,
        "epochs": 3,
        "early-stopping": 3,
    }
    command = [*launcher, "-m", "adapter_export", "train", "--json"]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **ONE_THREAD}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout)
    assert not (tmp_path / "two.partial").exists()

    one = train(model, "ia3", task, data, tmp_path / "one", eval=evaluation, batch_size=8, epochs=3,
                early_stopping=3)  # fmt: skip
    assert (two["steps"], two["kept_step"]) == (one.steps, one.kept_step) == (15, one.kept_step)
    assert np.isclose(two["metrics"]["loss"], one.metrics["loss"], rtol=1e-5)
    assert two["metrics"].get("accuracy") == one.metrics.get("accuracy")
    ours = load_file(one.output / "adapter_model.safetensors")
    theirs = load_file(output / "adapter_model.safetensors")
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        np.testing.assert_allclose(theirs[name], tensor, atol=2e-5, err_msg=name)
