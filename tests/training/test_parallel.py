"""Several processes train what one would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from adapter_export.training.train import train
from tests.training.conftest import ONE_THREAD, texts, write_jsonl


def test_two_processes_give_the_result_of_one(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    # 37 texts in updates of 8: no epoch divides evenly, and no update between two processes.
    data = write_jsonl(tmp_path / "train.jsonl", texts(37))
    evaluation = write_jsonl(tmp_path / "eval.jsonl", texts(7, seed=1))
    model, output = tiny_model("bert", "text-classification"), tmp_path / "two"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = {
        "model": model,
        "method": "ia3",
        "task": "text-classification",
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

    one = train(model, "ia3", "text-classification", data, tmp_path / "one", eval=evaluation, batch_size=8, epochs=3,
                early_stopping=3)  # fmt: skip
    assert (two["steps"], two["kept_step"]) == (one.steps, one.kept_step) == (15, one.kept_step)
    assert np.isclose(two["metrics"]["loss"], one.metrics["loss"], rtol=1e-5)
    assert two["metrics"]["accuracy"] == one.metrics["accuracy"]
    ours = load_file(one.output / "adapter_model.safetensors")
    theirs = load_file(output / "adapter_model.safetensors")
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        np.testing.assert_allclose(theirs[name], tensor, atol=2e-5, err_msg=name)
