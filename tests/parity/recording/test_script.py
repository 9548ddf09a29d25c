"""The script of the recorder needs nothing of this package. It runs with AdapterHub's own library and with PEFT."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adapter_export.export.export import export_onnx
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.recording.script import script
from adapter_export.parity.run import check_parity
from samples import environments
from tests.bundles import Exported

GOLDENS = Path(__file__).parents[2] / "goldens/adapterhub"


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    path = tmp_path / "recorder.py"
    path.write_text(script(), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def hub_python() -> Path:
    return environments.python(environments.ADAPTERHUB)


def record(python: Path | str, recorder: Path, model: Path, adapter: Path, *more: str) -> Path:
    output = recorder.with_name("reference.npz")
    command = [python, "-I", recorder, "--model", model, "--adapter", adapter, "--output", output, *more]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd="/", check=False)
    assert result.returncode == 0, result.stderr
    return output


def test_the_script_needs_nothing_of_this_package(recorder: Path) -> None:
    tree = ast.parse(recorder.read_text())
    names = Counter(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    names |= Counter(t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets)  # type: ignore[attr-defined]
    assert not [name for name, count in names.items() if count > 1], "of two of one name the last would count"
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    roots = {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names)
    assert roots <= {"numpy", "torch", "transformers", "peft", "adapters", "safetensors"}


@pytest.mark.real
@pytest.mark.parametrize(
    "case", ["bert-cls-pfeiffer-bin", "llama-houlsby", pytest.param("gpt2-ia3", marks=pytest.mark.thorough)]
)
def test_adapterhubs_own_library(case: str, recorder: Path, hub_python: Path, tmp_path: Path) -> None:
    """A record of the library judges our bundle, without its checkpoint and without the model."""
    base, adapter = GOLDENS / case / "base", GOLDENS / case / "adapter"
    output = record(hub_python, recorder, base, adapter)
    with np.load(output) as file:
        about = json.loads(str(file["meta"]))
    assert about["witness"] == "adapters 1.3.0"
    assert about["versions"]["transformers"] == "4.57.6"
    task = "causal-lm" if case != "bert-cls-pfeiffer-bin" else "auto"
    export_onnx(base, {"t": adapter}, tmp_path / "bundle", mode="swappable", task=task)
    report = check_parity(tmp_path / "bundle", references={"t": output})
    assert report.verdict is Verdict.PASS, list(report.checks)
    assert report.outcome == "pass (not judged beyond 13 tokens)"
    assert report.witnesses == {"t": "recorded by adapters 1.3.0"}
    assert len(report.of("t")) == 7
    # With the checkpoint as well, our own reading is compared with the record.
    both = check_parity(tmp_path / "bundle", base, {"t": adapter}, references={"t": output})
    assert both.verdict is Verdict.PASS
    assert [check.verdict for check in both.checks if check.name == "record"] == [Verdict.PASS]


def test_peft(swappable_bundle: Exported, recorder: Path, tmp_path: Path) -> None:
    output = record(sys.executable, recorder, swappable_bundle.base, swappable_bundle.adapters["ia3_three"])
    adapters = {name: path for name, path in swappable_bundle.adapters.items() if name != "ia3_three"}
    report = check_parity(swappable_bundle.bundle, swappable_bundle.base, adapters, references={"ia3_three": output})
    assert report.verdict is Verdict.PASS
    assert report.outcome == "pass (unwitnessed; not judged beyond 13 tokens)"
    names = {name: witness.partition(" 0")[0] for name, witness in report.witnesses.items()}
    own = "none: our own reading"
    assert names == {
        "ia3_two": "peft",
        "ia3_three": "recorded by peft",
        "houlsby_four": own,
        "houlsby_two": own,
        "pfeiffer_five": own,
    }
    # All cases for each adapter; for the recorded adapter those of its record as well.
    assert {name: len(report.of(name)) for name in ("ia3_two", "ia3_three")} == {"ia3_two": 32, "ia3_three": 7}


def test_a_checkpoint_that_the_library_loads_in_part_is_refused(
    recorder: Path, tiny_model: Callable[..., Path], swappable_bundle: Exported
) -> None:
    command = [sys.executable, recorder, "--model", tiny_model("gpt2"), "--output", recorder.with_suffix(".npz")]
    command += ["--adapter", swappable_bundle.adapters["ia3_two"]]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: adapter ")
    assert not list(recorder.parent.glob("*.npz"))


def test_wrong_arguments_are_refused_at_once(recorder: Path, swappable_bundle: Exported) -> None:
    """A missing folder, and an environment without the checkpoint's library (AdapterHub's is not installed here)."""
    command = [sys.executable, recorder, "--model", swappable_bundle.base]
    for adapter, output, message in (
        ("ia3_two", recorder.parent / "nowhere" / "r.npz", "nowhere is not a folder"),
        ("houlsby_two", recorder.with_suffix(".npz"), "its library is missing here: No module named 'adapters'"),
    ):
        more = ["--adapter", swappable_bundle.adapters[adapter], "--output", output]
        result = subprocess.run(
            [str(part) for part in (*command, *more)], capture_output=True, text=True, check=False, cwd=recorder.parent
        )
        assert result.returncode == 2
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
