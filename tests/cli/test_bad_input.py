"""Bad input to `merge` and `onnx`: exit 2, one line that says what and where, nothing left behind, nothing lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from adapter_export.cli import main

# What happens to good copies of a base model ("base") and an IA3 adapter with two labels ("adapter").
Damage = Callable[[Path, Path], None]


def tensors(change: Callable[[dict[str, np.ndarray]], Any]) -> Damage:
    """Change the adapter's tensors."""

    def damage(base: Path, adapter: Path) -> None:
        file = adapter / "adapter_model.safetensors"
        state = dict(load_file(file))
        change(state)
        save_file(state, file)

    return damage


def sidecar(base: Path, adapter: Path) -> None:
    file = adapter / "adapter_export.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_sha256": "0" * 64}))


def truncate(name: str, of_base: bool = False) -> Damage:
    def damage(base: Path, adapter: Path) -> None:
        file = (base if of_base else adapter) / name
        file.write_bytes(file.read_bytes()[:-100])

    return damage


def rename(state: dict[str, np.ndarray]) -> None:
    state["base_model.model.bert.encoder.layer.7.attention.self.key.ia3_l"] = state.pop(KEY)


def poison(state: dict[str, np.ndarray]) -> None:
    state[KEY] = state[KEY] * np.float32("nan")


KEY = "base_model.model.bert.encoder.layer.0.attention.self.key.ia3_l"
CASES: dict[str, tuple[Damage, str]] = {
    "no adapter": (lambda base, adapter: shutil.rmtree(adapter), "adapter: expected a folder, found nothing"),
    "no base": (lambda base, adapter: shutil.rmtree(base), "base: expected a folder, found nothing"),
    "broken config": (
        lambda base, adapter: (adapter / "adapter_config.json").write_text("{") and None,
        "adapter_config.json: expected JSON",
    ),
    "broken base config": (
        lambda base, adapter: (base / "config.json").write_text("[]") and None,
        "config.json: expected a JSON object, found list",
    ),
    "truncated adapter": (truncate("adapter_model.safetensors"), "not a readable safetensors file"),
    "truncated base": (truncate("model.safetensors", of_base=True), "/base"),
    "wrong shape": (tensors(lambda state: state.update({KEY: np.ones((5, 1), np.float32)})), "expected shape (32, 1)"),
    "not finite": (tensors(poison), f"{KEY}': expected finite values"),
    "missing tensor": (tensors(lambda state: state.pop(KEY)), "self.key.ia3_l' is missing"),
    "surplus tensor": (
        tensors(lambda state: state.update({KEY.replace("key", "query"): np.ones((32, 1), np.float32)})),
        "query",
    ),
    "unknown module": (tensors(rename), "encoder.layer.7.attention.self.key"),
    "another base": (sidecar, "field 'base_sha256'"),
}


@pytest.fixture
def folders(tmp_path: Path, tiny_model: Callable[..., Path], classifier_checkpoints: dict[str, Path]) -> Path:
    shutil.copytree(tiny_model("bert"), tmp_path / "base")
    shutil.copytree(classifier_checkpoints["ia3_two"], tmp_path / "adapter")
    return tmp_path


def arguments(command: str, folder: Path) -> list[str]:
    adapter = folder / "adapter"
    specific = {
        "merge": ["--adapter", str(adapter)],
        "onnx": ["--adapter", f"a={adapter}", "--mode", "swappable"],
    }
    return [command, "--model", str(folder / "base"), "--output", str(folder / "out"), *specific[command]]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("command", ["merge", "onnx"])
def test_one_line_and_nothing_left(command: str, case: str, folders: Path) -> None:
    damage, message = CASES[case]
    damage(folders / "base", folders / "adapter")
    before = {path.name for path in folders.iterdir()}
    result = CliRunner().invoke(main, arguments(command, folders))
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert {path.name for path in folders.iterdir()} == before


@pytest.mark.parametrize("command", ["merge", "onnx"])
@pytest.mark.parametrize("force", [False, True])
def test_an_output_that_is_not_ours_is_never_touched(command: str, force: bool, folders: Path) -> None:
    (folders / "out").mkdir()
    (folders / "out" / "thesis.tex").write_text("years of work")
    result = CliRunner().invoke(main, [*arguments(command, folders), *(["--force"] if force else [])])
    assert result.exit_code == 2
    assert [path.name for path in (folders / "out").iterdir()] == ["thesis.tex"]


def test_earlier_output_survives_a_failing_force(folders: Path) -> None:
    assert CliRunner().invoke(main, arguments("merge", folders)).exit_code == 0
    before = {path.name: path.read_bytes() for path in (folders / "out").iterdir()}
    sidecar(folders / "base", folders / "adapter")
    assert CliRunner().invoke(main, [*arguments("merge", folders), "--force"]).exit_code == 2
    assert {path.name: path.read_bytes() for path in (folders / "out").iterdir()} == before


# A limit on the size of any file stands for a full disk: the write fails where it would fail there.
_LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from adapter_export.cli import main
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are a matter of Unix")
@pytest.mark.parametrize("command", ["merge", "onnx"])
def test_a_full_disk_leaves_nothing(command: str, folders: Path) -> None:
    before = {path.name for path in folders.iterdir()}
    result = subprocess.run(
        [sys.executable, "-c", _LIMITED, *arguments(command, folders)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    assert {path.name for path in folders.iterdir()} == before
