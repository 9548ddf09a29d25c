"""The base install: what it is for works without torch and its kin, and everything else says what to install."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adapter_export.cli.extras import EXTRAS
from tests.bundles import Exported
from tests.recorded import Recorded

GOLDENS = Path(__file__).parents[1] / "goldens/adapterhub"
# Refuses the packages that extras bring, as an interpreter without them would.
WITHOUT = f"""
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(EXTRAS)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from adapter_export.cli import main
main()
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def of(extra: str) -> set[str]:
    lines = [line for line in requires("adapter-export") or () if f'extra == "{extra}"' in line]
    return {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in lines}


def test_the_table_is_that_of_the_project() -> None:
    found = {package: set() for package in EXTRAS}
    for extra in ("export", "ray", "report", "serve", "train"):
        for package in of(extra):
            found[package].add(extra)
    assert found == {package: set(extras) for package, extras in EXTRAS.items()}


def test_the_base_install(swappable_bundle: Exported, merged_bundle: Exported, tmp_path: Path) -> None:
    """run, inspect, merge and add, each to its end."""
    bundle = Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle"))
    adapter = swappable_bundle.adapters["ia3_two"]
    added = run("add", "--bundle", bundle, "--adapter", f"again={adapter}")
    assert added.returncode == 0, added.stderr
    answered = run("run", "--bundle", bundle, "--adapter", "again", "--text", "the cat", "--json")
    assert answered.returncode == 0, answered.stderr
    assert json.loads(answered.stdout)
    assert run("inspect", bundle).returncode == 0
    assert run("inspect", bundle / "model.onnx").returncode == 0
    assert run("inspect", adapter).returncode == 0
    headed = merged_bundle.adapters["ia3_three"]
    merged = run("merge", "--model", merged_bundle.base, "--adapter", headed, "--output", tmp_path / "merged")
    assert merged.returncode == 0, merged.stderr


def test_bin_files_are_read_without_torch(swappable_bundle: Exported, tmp_path: Path) -> None:
    """A golden of AdapterHub's, and a checkpoint of PEFT's rewritten, give what the same in safetensors gives."""
    assert run("inspect", GOLDENS / "bert-cls-pfeiffer-bin" / "adapter").returncode == 0
    adapter = Path(shutil.copytree(swappable_bundle.adapters["ia3_two"], tmp_path / "adapter"))
    state = load_file(adapter / "adapter_model.safetensors")
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in state.items()}, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    bundle = Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle"))
    added = run("add", "--bundle", bundle, "--adapter", f"again={adapter}")
    assert added.returncode == 0, added.stderr
    files = [bundle / "adapters" / f"{name}.onnx_adapter" for name in ("ia3_two", "again")]
    first, again = (np.frombuffer(file.read_bytes(), np.uint8) for file in files)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("onnx", "--adapter", "a={adapter}", "--mode", "merged", "--output", "{out}"), "export"),
        (
            ("train", "--method", "ia3", "--task", "text-classification", "--train", "{data}", "--output", "{out}"),
            "train",
        ),
    ],
)
def test_what_is_missing_is_named(
    arguments: tuple[str, ...], extra: str, merged_bundle: Exported, tmp_path: Path
) -> None:
    (tmp_path / "data.csv").write_text("text,label\nthe cat,a\nthe dog,b\n")
    names = {"adapter": merged_bundle.adapters["ia3_three"], "out": tmp_path / "out", "data": tmp_path / "data.csv"}
    result = run(arguments[0], "--model", merged_bundle.base, *(text.format(**names) for text in arguments[1:]))
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: '{arguments[0]}' needs the extra [{extra}], as ")
    assert line.endswith(f"pip install 'adapter-export[{extra}]'")
    assert not (tmp_path / "out").exists()


def test_parity_needs_torch_only_for_models(merged_bundle: Exported) -> None:
    adapter = f"ia3_three={merged_bundle.adapters['ia3_three']}"
    result = run("parity", "--bundle", merged_bundle.bundle, "--model", merged_bundle.base, "--adapter", adapter)
    assert result.returncode == 2
    assert "error: 'parity' needs the extra [export]" in result.stderr


@pytest.mark.parametrize("command", ["parity", "bench"])
def test_a_page_with_plots_needs_an_extra(command: str, recorded: Recorded, tmp_path: Path) -> None:
    """It is said before anything is measured, and the same command without a page works."""
    more = ["--reference", recorded.file] if command == "parity" else ["--repeats=1", "--batch=1", "--length=2"]
    result = run(command, "--bundle", recorded.exported.bundle, *more, "--report", tmp_path / "page.html")
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    expected = f"error: '{command}' needs the extra [report], as matplotlib is not installed: pip install"
    assert line == f"{expected} 'adapter-export[report]'"
    assert list(tmp_path.iterdir()) == []
    assert run(command, "--bundle", recorded.exported.bundle, *more).returncode == 0
