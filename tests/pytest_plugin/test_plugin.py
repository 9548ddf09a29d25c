"""The plugin of pytest, as suites of others use it: in processes of their own, in which torch cannot be imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch

from adapter_export import AdapterSession, load_pytorch
from adapter_export.cli.extras import EXTRAS
from tests.bundles import Exported
from tests.parity.mutants import Mutant, make, without
from tests.recorded import SHAPES, TEXT, Recorded

if sys.version_info >= (3, 11):
    import tomllib

ROOT = Path(__file__).parents[2]
PLUGIN = "adapter_export.pytest_plugin"
# Whatever a suite does, these must not be needed.
NO_TORCH = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(EXTRAS)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


class Ran(NamedTuple):
    """code: exit code. output: of pytest. failures: text of each failed test, by name. names: all tests."""

    code: int
    output: str
    failures: dict[str, str]
    names: list[str]


def run(folder: Path, tests: str, *options: str, configuration: str = "") -> Ran:
    """Runs pytest in a folder with these tests, and with a conftest.py that refuses torch."""
    (folder / "conftest.py").write_text(NO_TORCH)
    (folder / "test_it.py").write_text(tests)
    (folder / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\n{configuration}")
    command = [sys.executable, "-m", "pytest", "-q", "--junitxml=junit.xml", *options]
    if PLUGIN not in _installed():
        command += ["-p", PLUGIN]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=_environment())
    cases = list(ET.parse(folder / "junit.xml").iter("testcase")) if (folder / "junit.xml").exists() else []
    failures = {
        str(case.get("name")): item.text or ""
        for case in cases
        for kind in ("failure", "error")
        for item in case.iter(kind)
    }
    return Ran(done.returncode, done.stdout + done.stderr, failures, [str(case.get("name")) for case in cases])


def _installed() -> set[str]:
    return {entry.value for entry in entry_points(group="pytest11")}


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PY_COLORS": "0"}


def options(bundle: Path, recorded: Recorded) -> tuple[str, str]:
    return f"--adapter-bundle={bundle}", f"--adapter-reference={recorded.file}"


CASES = "def test_case(adapter_case, assert_parity):\n    assert_parity(case=adapter_case)\n"


def test_each_case_of_each_adapter_is_a_test(recorded: Recorded, tmp_path: Path) -> None:
    ran = run(tmp_path, CASES, *options(recorded.exported.bundle, recorded))
    assert ran.code == 0, ran.output
    shapes = ("1x1", "3x9-left", "2x13-right", "text-1")
    expected = [f"test_case[{name}-{shape}]" for name in ("base", *recorded.exported.adapters) for shape in shapes]
    assert ran.names == expected


def wrong(recorded: Recorded, folder: Path) -> Path:
    """A bundle of the record's `ia3_three`, which lacks the vectors of one layer."""
    change = without("encoder.layer.1.", ".ia3.")
    return make(Mutant("dropped", "", "ia3_three", change), recorded.exported, folder / "wrong")


def test_a_failure_says_what_how_much_and_where(recorded: Recorded, tmp_path: Path) -> None:
    bundle = wrong(recorded, tmp_path)
    ran = run(tmp_path, CASES, *options(bundle, recorded))
    assert ran.code == 1
    assert {*ran.failures} == {name for name in ran.names if name.startswith("test_case[ia3_three-")}
    assert [name for name in ran.names if name.startswith("test_case[base-")]
    lines = ran.failures["test_case[ia3_three-3x9-left]"].splitlines()
    assert re.fullmatch(r"fail: ia3_three, case 3 x 9 left, logits: e\(O\) = \d\.\d+e[-+]\d\d is above .*", lines[0])
    where = re.search(r"largest difference: logits\[(\d), (\d)\]: expected (\S+), found (\S+)$", "\n".join(lines), re.M)
    assert where
    assert lines[-1].startswith(f"bundle {bundle} (swappable, float32, cpu), reference {recorded.file} of 20")
    assert len(lines) <= 5
    # By an independent path: what the wrong bundle gives at that place, and what the right one gives.
    with np.load(recorded.file) as file:
        inputs = {name.rpartition("/")[2]: file[name] for name in file.files if name.startswith("1/input/")}
    place = int(where[1]), int(where[2])
    for folder, text in ((recorded.exported.bundle, where[3]), (bundle, where[4])):
        with AdapterSession(folder) as session:
            found = session.run(inputs, adapter="ia3_three")["logits"]
        assert found[place] == pytest.approx(float(text), rel=1e-4)


def test_the_whole_bundle(recorded: Recorded, tmp_path: Path) -> None:
    tests = "def test_all(assert_parity):\n    assert_parity()\n"
    right = run(tmp_path, tests, *options(recorded.exported.bundle, recorded))
    assert right.code == 0, right.output
    bundle = wrong(recorded, tmp_path)
    ran = run(tmp_path, tests, *options(bundle, recorded))
    lines = ran.failures["test_all"].splitlines()
    assert len(lines) <= 8
    assert re.fullmatch(r"fail: ia3_three, case 1 x 1, logits: e\(O\) = .* \(and \d+ more cases\)", lines[0])
    # What else failed follows from it.
    assert sum(line.startswith("fail: ") for line in lines) == 1
    assert lines[1].startswith("where it broke: not looked for: the reference is a record")
    assert lines[2].startswith(f"  next step: run `adapter-export parity --bundle {bundle} --model DIR")


def test_given_inputs(recorded: Recorded, tmp_path: Path) -> None:
    tests = f"""
import numpy as np

BATCH = {{
    "input_ids": np.array([[5, 6, 7], [9, 8, 0]]),
    "attention_mask": np.array([[1, 1, 1], [1, 1, 0]]),
    "token_type_ids": np.zeros((2, 3), int),
}}

def test_text(assert_parity, adapter_bundle):
    assert_parity("ia3_two", {TEXT!r})
    assert (adapter_bundle / "manifest.json").exists()

def test_own_outputs(assert_parity, adapter_session):
    outputs = adapter_session.run(BATCH, adapter="ia3_two")
    assert_parity("ia3_two", BATCH, {{"logits": outputs["logits"] * (1 + 2e-5)}})

def test_other_outputs(assert_parity, adapter_session):
    outputs = adapter_session.run(BATCH, adapter="ia3_two")
    assert_parity("ia3_two", BATCH, {{"logits": outputs["logits"] * (1 + 1e-3)}})

def test_outputs_of_another_adapter(assert_parity, adapter_session):
    outputs = adapter_session.run(BATCH, adapter="ia3_three")
    assert_parity("ia3_two", BATCH, {{"logits": outputs["logits"]}})

def test_no_such_output(assert_parity):
    assert_parity("ia3_two", BATCH, {{"scores": [[1.0]]}})

def test_unknown_text(assert_parity):
    assert_parity("ia3_two", "the dog")

def test_unknown_adapter(assert_parity):
    assert_parity("nobody", {TEXT!r})
"""
    ran = run(tmp_path, tests, *options(recorded.exported.bundle, recorded))
    assert {*ran.names} - {*ran.failures} == {"test_text", "test_own_outputs"}, ran.output
    for name, message in {
        "test_other_outputs": "fail: ia3_two: logits: the largest error is ",
        "test_outputs_of_another_adapter": "fail: ia3_two: logits: shape: expected [2, 3], found [2, 2]",
        "test_no_such_output": "fail: ia3_two: scores: not an output (they are: logits)",
        "test_unknown_text": f"{recorded.file}: has no outputs of PyTorch for 'the dog'",
        "test_unknown_adapter": "adapter 'nobody': not in the bundle (it has: ia3_two, ",
    }.items():
        assert ran.failures[name].startswith(message)


def test_a_merged_bundle_and_a_decoder(
    recorded: Recorded, merged_bundle: Exported, llama_bundle: Exported, tmp_path: Path
) -> None:
    tests = f"""
def test_text(assert_parity):
    assert_parity("ia3_three", {TEXT!r})

def test_the_base_model(assert_parity):
    assert_parity(None, {TEXT!r})

def test_no_inputs(assert_parity):
    assert_parity("ia3_three", expected={{"logits": [[1.0]]}})
"""
    ran = run(tmp_path, tests, *options(merged_bundle.bundle, recorded))
    assert {*ran.failures} == {"test_the_base_model", "test_no_inputs"}, ran.output
    message = "the graph always has adapter 'ia3_three': expected its name, found none"
    assert ran.failures["test_the_base_model"].startswith(message)
    assert ran.failures["test_no_inputs"].startswith("assert_parity: found `expected` without the `inputs`")
    # The logits of a graph with a cache, against those of PyTorch.
    tests = """
import numpy as np

BATCH = {"input_ids": [[5, 6, 7]], "attention_mask": [[1, 1, 1]], "position_ids": [[0, 1, 2]]}

def test_too_few_inputs(assert_parity):
    assert_parity("ia3", {"input_ids": [[5, 6, 7]]}, {"logits": [[[1.0]]]})

def test_logits(assert_parity, adapter_session):
    steps = list(adapter_session.generate([[5, 6, 7]], adapter="ia3", max_new_tokens=1))
    with np.load("logits.npz") as file:
        assert_parity("ia3", BATCH, {"logits": file["logits"]})
        np.testing.assert_allclose(steps[0].logits[0], file["logits"][0, -1], rtol=1e-3, atol=1e-5)
"""
    model = load_pytorch(llama_bundle.base, llama_bundle.adapters["ia3"], task="causal-lm")
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[5, 6, 7]]), attention_mask=torch.ones(1, 3, dtype=torch.int64)).logits
    np.savez(tmp_path / "logits.npz", logits=logits.numpy())
    ran = run(tmp_path, tests, f"--adapter-bundle={llama_bundle.bundle}")
    assert {*ran.failures} == {"test_too_few_inputs"}, ran.output
    message = "inputs: expected input_ids, attention_mask, position_ids, found input_ids"
    assert ran.failures["test_too_few_inputs"] == message


def test_a_missing_option_is_no_pass(recorded: Recorded, tmp_path: Path) -> None:
    bundle = options(recorded.exported.bundle, recorded)[0]
    ran = run(tmp_path, CASES, bundle)
    assert ran.code != 0
    assert "expected --adapter-reference, or adapter_reference in pytest's configuration; found neither" in ran.output
    ran = run(tmp_path, "def test_it(adapter_session): pass")
    assert "expected --adapter-bundle, or adapter_bundle in pytest's configuration; found neither" in ran.output
    # A record of something else, too.
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(recorded.file.read_bytes()[:5000])
    ran = run(tmp_path, CASES, bundle, f"--adapter-reference={damaged}")
    assert ran.code != 0
    assert f"{damaged}: expected a record of a bundle (parity --record), found: File is not a zip file" in ran.output


def test_paths_of_the_configuration_and_several_processes(recorded: Recorded, tmp_path: Path) -> None:
    for name, target in (("bundle", recorded.exported.bundle), ("parity.npz", recorded.file)):
        (tmp_path / name).symlink_to(target)
    configuration = "adapter_bundle = bundle\nadapter_reference = parity.npz\nadapter_provider = cpu\n"
    ran = run(tmp_path, CASES, "-n", "2", "-k", "base or ia3_two", configuration=configuration)
    assert ran.code == 0, ran.output
    assert len(ran.names) == 2 * (len(SHAPES) + 1)


def test_loading_it_loads_nothing_heavy() -> None:
    code = (
        f"import sys, {PLUGIN}; print(sorted({{'numpy', 'onnx', 'onnxruntime', 'torch', 'rich'}} & {{*sys.modules}}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not read toml")
def test_pytest_finds_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (entry,) = project["entry-points"]["pytest11"].items()
    # The same name as with -p, so that it is not loaded twice.
    assert entry == (PLUGIN, PLUGIN)
    assert import_module(PLUGIN).pytest_addoption
