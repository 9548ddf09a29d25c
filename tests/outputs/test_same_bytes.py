"""Same input, same bytes: what is written does not tell when, where, or in which process it was made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.modelinfo import ModelInfo

SCRIPT = Path(__file__).with_name("made_twice.py")


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., list[dict[str, bytes]]]:
    """Called as (action, model, adapters, given=None) -> the files of two outputs, made by two processes whose sets are
    ordered otherwise, in folders of different names. given: a folder that both begin with a copy of."""

    def make(action: str, model: Path, adapters: list[Path], given: Path | None = None) -> list[dict[str, bytes]]:
        found = []
        for seed, name in (("1", "one"), ("2", "another/folder")):
            output = tmp_path / name / "output"
            output.parent.mkdir(parents=True)
            if given is not None:
                shutil.copytree(given, output)
            command = [sys.executable, SCRIPT, action, output, model, *adapters]
            done = subprocess.run(
                [str(part) for part in command],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            found.append(content(output))
        return found

    return make


@pytest.fixture
def inputs(
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
) -> Callable[..., tuple[Path, list[Path]]]:
    """Called as (model_type, task) -> a model and three adapters: IA3, a bottleneck, another IA3; with licenses."""

    def make(model_type: str, task: str) -> tuple[Path, list[Path]]:
        info = tiny_info(model_type, task)
        methods = ("ia3", "bottleneck", "ia3")
        made = [save_checkpoint(random_adapter(info, method, seed), info) for seed, method in enumerate(methods)]
        for number, folder in enumerate(made):
            (folder / "README.md").write_text(f"---\nlicense: [mit, cc-by-{number}.0]\n---\n")
            for name in ("LICENSE", "NOTICE", "COPYING"):
                (folder / name).write_text(f"{name} {number}")
        return tiny_model(model_type, task), made

    return make


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def test_a_merge(made: Callable[..., list[dict[str, bytes]]], inputs: Callable[..., tuple[Path, list[Path]]]) -> None:
    one, other = made("merge", *inputs("bert", "text-classification"))
    assert len(one) > 3
    assert differing(one, other) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "model_type"),
    [
        pytest.param("merged:text-classification", "bert", marks=pytest.mark.thorough),
        pytest.param("embedded:text-classification", "bert", marks=pytest.mark.thorough),
        ("swappable:text-classification", "bert"),
        pytest.param("bank:text-classification", "bert", marks=pytest.mark.thorough),
        ("swappable:causal-lm", "llama"),
    ],
)
def test_an_export(
    action: str,
    model_type: str,
    made: Callable[..., list[dict[str, bytes]]],
    inputs: Callable[..., tuple[Path, list[Path]]],
) -> None:
    one, other = made(action, *inputs(model_type, action.partition(":")[2]))
    assert {"manifest.json", "model.onnx"} <= set(one)
    assert differing(one, other) == []


@pytest.mark.slow
def test_an_added_adapter(
    made: Callable[..., list[dict[str, bytes]]], inputs: Callable[..., tuple[Path, list[Path]]], tmp_path: Path
) -> None:
    from adapter_export import export_onnx

    model, adapters = inputs("bert", "text-classification")
    export_onnx(model, {"first": adapters[0], "second": adapters[1]}, tmp_path / "given", mode="swappable")
    one, other = made("add", model, adapters, tmp_path / "given")
    assert "adapters/third.onnx_adapter" in one
    assert differing(one, other) == []
