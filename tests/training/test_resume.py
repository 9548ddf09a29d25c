"""A run that was killed continues to the very tensors it would have had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

from adapter_export.errors import InputError, OutputExists
from adapter_export.training import loop as fit_module
from adapter_export.training.callbacks import keeper
from adapter_export.training.run_folder import RunFolder
from adapter_export.training.train import TrainResult, train
from tests.training.conftest import ONE_THREAD, texts, write_jsonl

# 30 updates an epoch: checkpoints after 30, 50 (amid an epoch), 60 and so on.
ROWS, BATCH, EPOCHS = 120, 4, 2

# Runs `adapter-export train` and kills itself, as `kill -9` would, at the end of the update given first.
KILLED = """
import os, signal, sys
from adapter_export.cli import main
from adapter_export.training import loop
from tests.training.test_resume import stopping
loop.keeper = stopping(int(sys.argv.pop(1)), lambda: os.kill(os.getpid(), signal.SIGKILL))
main()
"""


def stopping(step: int, stop: Callable[[], Any], event: str = "on_step_end") -> Callable[..., Any]:
    """As `keeper`, but calls `stop` at the event after the update `step`, before anything else is done there."""

    def make(*args: Any) -> Any:
        made = keeper(*args)
        then = getattr(made, event)

        def stop_or_go_on(args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step == step:
                stop()
            then(args, state, control, **rest)

        setattr(made, event, stop_or_go_on)
        return made

    return make


def interrupt() -> None:
    raise KeyboardInterrupt


def fail() -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture
def arguments(tiny_model: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    return {
        "model": tiny_model("bert", "text-classification"),
        "method": "bottleneck",
        "task": "text-classification",
        "train": write_jsonl(tmp_path / "train.jsonl", texts(ROWS)),
        "eval": write_jsonl(tmp_path / "eval.jsonl", texts(9, seed=1)),
        "batch_size": BATCH,
        "epochs": EPOCHS,
        "seed": 3,
        "reduction_factor": 8,
    }


def tensors(result: TrainResult) -> dict[str, bytes]:
    return {
        name: tensor.tobytes()
        for file in sorted(result.output.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def test_a_killed_process_resumes_bit_for_bit(arguments: dict[str, Any], tmp_path: Path) -> None:
    options = [text for name, value in arguments.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-c", KILLED, "57", "train", *options, "--output", str(tmp_path / "out")]
    environment = {**os.environ, **ONE_THREAD}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_folder = RunFolder.beside(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run_folder.last_step() == 50

    resumed = train(**arguments, output=tmp_path / "out", resume=True)
    assert (resumed.resumed_from, resumed.steps) == (50, 60)
    assert not run_folder.path.exists()
    whole = train(**arguments, output=tmp_path / "whole")
    assert tensors(resumed) == tensors(whole)
    assert resumed.history == whole.history
    assert resumed.metrics == whole.metrics


@pytest.mark.parametrize(
    ("step", "settings", "resumed_from"),
    [
        (10, {}, None),  # before the first checkpoint
        (31, {}, 30),  # from the end of an epoch
        (52, {"gradient_accumulation": 2}, 50),  # from amid an epoch
        (40, {"max_steps": 41, "epochs": None}, 30),  # a run that ends amid an epoch
        (55, {"early_stopping": 1, "learning_rate": 0.2, "epochs": 9}, 50),
    ],
)
def test_resuming_from_anywhere(
    arguments: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    settings: dict[str, Any],
    resumed_from: int | None,
) -> None:
    arguments |= settings
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "keeper", stopping(step, interrupt))
        with pytest.raises(KeyboardInterrupt):
            train(**arguments, output=tmp_path / "out")
    resumed = train(**arguments, output=tmp_path / "out", resume=True)
    assert resumed.resumed_from == resumed_from
    whole = train(**arguments, output=tmp_path / "whole")
    assert tensors(resumed) == tensors(whole)
    assert (resumed.steps, resumed.kept_step, resumed.history) == (whole.steps, whole.kept_step, whole.history)


def test_a_language_model_resumes_too(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One row in nine has nothing left to learn, and is in no update.
    rows = [{"prompt": row["text"], "completion": " " + "dog " * (i % 9)} for i, row in enumerate(texts(40), start=1)]
    rows = [row if row["completion"].strip() else {"prompt": "a " * 20, "completion": " night"} for row in rows]
    data = write_jsonl(tmp_path / "train.jsonl", rows)
    arguments = {
        "model": tiny_model("llama", "causal-lm"), "method": "ia3", "task": "causal-lm", "train": data, "eval": data,
        "batch_size": 4, "epochs": 2, "max_length": 16, "gradient_accumulation": 2,
    }  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "keeper", stopping(12, interrupt))
        with pytest.raises(KeyboardInterrupt):
            train(**arguments, output=tmp_path / "out")
    resumed = train(**arguments, output=tmp_path / "out", resume=True)
    whole = train(**arguments, output=tmp_path / "whole")
    assert (resumed.resumed_from, resumed.steps, resumed.left_out) == (9, 18, 8)
    assert tensors(resumed) == tensors(whole)
    assert (resumed.history, resumed.metrics) == (whole.history, whole.metrics)


def test_an_epochs_evaluation_is_not_lost(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 50 updates an epoch, where a checkpoint amid an epoch would be due: it must not come before the evaluation.
    arguments |= {"train": write_jsonl(tmp_path / "train.jsonl", texts(100)), "batch_size": 2, "early_stopping": 3}
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "keeper", stopping(50, interrupt, "on_evaluate"))
        with pytest.raises(KeyboardInterrupt):
            train(**arguments, output=tmp_path / "out")
    resumed = train(**arguments, output=tmp_path / "out", resume=True)
    assert [entry["step"] for entry in resumed.history] == [50, 100]


@pytest.mark.parametrize(
    "settings",
    [{"max_steps": 37, "epochs": None}, {"epochs": 9, "early_stopping": 1, "learning_rate": 0.2}],
    ids=["steps", "early"],
)
def test_a_run_killed_after_its_last_update_trains_no_further(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    arguments |= settings
    with monkeypatch.context() as patch:
        patch.setattr("adapter_export.training.train.save_adapter", lambda *_: interrupt())
        with pytest.raises(KeyboardInterrupt):
            train(**arguments, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    resumed = train(**arguments, output=tmp_path / "out", resume=True)
    whole = train(**arguments, output=tmp_path / "whole")
    assert resumed.resumed_from == whole.steps
    assert tensors(resumed) == tensors(whole)
    assert (resumed.steps, resumed.kept_step, resumed.metrics) == (whole.steps, whole.kept_step, whole.metrics)


@pytest.fixture
def stopped(arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """What is left of a run that ran out of disk after 35 updates."""
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "keeper", stopping(35, fail))
        with pytest.raises(OSError, match="No space left"):
            train(**arguments, output=tmp_path / "out")
    return RunFolder.beside(tmp_path / "out")


def test_checkpoints_hold_what_learns_and_no_base_weights(stopped: RunFolder, tiny_model: Callable[..., Path]) -> None:
    checkpoint = stopped.checkpoint(30)
    assert {path.name for path in checkpoint.iterdir()} == {
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "complete",
    }
    learned = load_file(checkpoint / "model.safetensors")
    parts = {f"model.adapter_sites.{i}.{name}" for i in range(4) for name in ("down", "down_bias", "up", "up_bias")}
    assert set(learned) == {*parts, "model.classifier.weight", "model.classifier.bias"}
    # weights_only: nothing in it but tensors and plain values. Two moments and a step count a tensor.
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert len(optimizer["state"]) == len(learned)
    assert sum(value.numel() for state in optimizer["state"].values() for value in state.values()) == sum(
        2 * tensor.size + 1 for tensor in learned.values()
    )
    torch.load(checkpoint / "scheduler.pt", weights_only=True)
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    assert size < (tiny_model("bert", "text-classification") / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 4}, "seed"),
        ({"method": "ia3", "reduction_factor": None}, "method"),
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"batch_size": 8}, "batch_size"),
        ({"epochs": 5}, "epochs"),
        ({"reduction_factor": 4}, "options"),
        ({"max_length": 9}, "max_length"),
        ({"model": ("bert", 77)}, "model"),
        ({"train": 121}, "train"),
        ({"eval": None}, "eval"),
    ],
)
def test_another_run_does_not_resume_it(
    stopped: RunFolder,
    arguments: dict[str, Any],
    tmp_path: Path,
    tiny_model: Callable[..., Path],
    change: dict[str, Any],
    field: str,
) -> None:
    match field:
        case "model":
            change = {"model": tiny_model("bert", "text-classification", intermediate_size=48)}
        case "train":
            change = {"train": write_jsonl(tmp_path / "train.jsonl", texts(ROWS + 1))}
    before = {path: path.stat().st_mtime_ns for path in stopped.path.rglob("*")}
    with pytest.raises(InputError, match=rf"settings\.json: field '{field}': the killed run had .*, this one has "):
        train(**{**arguments, **change}, output=tmp_path / "out", resume=True)
    assert {path: path.stat().st_mtime_ns for path in stopped.path.rglob("*")} == before


def test_a_stopped_run_is_not_discarded_by_accident(
    stopped: RunFolder, arguments: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(OutputExists, match="continue it with --resume, or pass --force"):
        train(**arguments, output=tmp_path / "out")
    result = train(**{**arguments, "epochs": None, "max_steps": 3}, output=tmp_path / "out", force=True)
    assert (result.resumed_from, result.steps) == (None, 3)
    assert not stopped.path.exists()


def test_resume_with_nothing_to_resume_starts(arguments: dict[str, Any], tmp_path: Path) -> None:
    assert (
        train(**{**arguments, "epochs": None, "max_steps": 2}, output=tmp_path / "out", resume=True).resumed_from
        is None
    )
