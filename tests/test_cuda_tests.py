"""The tests for a GPU where there is none: they need few packages, skip with their reason, and are all there are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution, distributions, packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.cuda import machine
from tests.cuda.checkout import write_metadata

ROOT = Path(__file__).parents[1]
# What a machine with a GPU has, with all that these need themselves.
THERE = ("accelerate", "click", "numpy", "pyarrow", "pytest", "rich", "safetensors", "torch")
# What is brought to it.
BROUGHT = ("onnx", "onnx-ir", "onnxruntime-gpu", "onnxruntime", "onnxscript", "peft", "transformers")
# At least so many tests are collected: fewer would mean that a file is not.
LEAST = 50
# Runs pytest in a process where the modules of all other packages are absent.
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import pytest

sys.exit(pytest.main(sys.argv[1:]))
"""


def needed(names: tuple[str, ...]) -> set[str]:
    """Names of distributions that are installed, with those that they require."""
    installed = {canonicalize_name(item.metadata["Name"]) for item in distributions()}
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found or name not in installed:
            continue
        found.add(name)
        required = [Requirement(text) for text in distribution(name).requires or ()]
        waiting += [canonicalize_name(item.name) for item in required if not item.marker or item.marker.evaluate()]
    return found


def run(there: set[str], *arguments: str) -> str:
    """What pytest writes about the tests for a GPU, in a process that has no GPU and only these distributions."""
    absent = {
        module
        for module, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & there
    } - {"adapter_export"}
    # PyTorch needs filelock, the tests do not.
    absent |= {"filelock"}
    assert {"hypothesis", "xdist"} <= absent
    environment = {
        **{name: value for name, value in os.environ.items() if name != machine.REHEARSAL},
        "CUDA_VISIBLE_DEVICES": "",
        # Plugins of pytest are packages, too.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "",
    }
    command = [sys.executable, "-c", WITHOUT.format(absent=sorted(absent)), "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_they_are_read_with_few_packages_and_skip_with_the_reason() -> None:
    pytest.importorskip("torch", reason="needs torch, in a process of its own")
    # Without what ONNX and transformers need: none of it is for reading the tests.
    listed = run(needed(THERE) | {*BROUGHT}, "-m", "cuda", "-q", "--collect-only", "--color=no")
    count = listed.count("::")
    assert count >= LEAST
    # The same tests by their folder, as `make test-cuda` runs them.
    output = run(needed((*THERE, *BROUGHT)), "tests/cuda", "-m", "cuda", "-q", "--color=no")
    skipped = re.findall(r"^SKIPPED \[(\d+)\] \S+: (.*)$", output, re.MULTILINE)
    # By ONNX Runtime's own word, which depends on its build and on whether there is a driver.
    (reason,) = {reason for _, reason in skipped}
    assert reason.startswith("no GPU: ")
    assert sum(int(number) for number, _ in skipped) == count
    assert re.search(rf"^{count} skipped in ", output, re.MULTILINE), "no test may pass or be left out"


def test_a_checkout_that_is_not_installed_knows_its_version(tmp_path: Path) -> None:
    write_metadata(tmp_path)
    (found,) = distributions(name="adapter-export", path=[str(tmp_path)])
    assert found.version == version("adapter-export")


def test_no_test_elsewhere_has_the_marker() -> None:
    """`-m cuda` would not read it."""
    marked = [
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "tests").rglob("*.py")
        if re.search(r"\bmark\.cuda\b", file.read_text(encoding="utf-8"))
    ]
    assert marked == ["tests/cuda/conftest.py"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("given", "python"), [((), ".venv/bin/python"), (("PYTHON=some-python",), "some-python")])
def test_a_python_that_is_named_needs_no_environment(given: tuple[str, ...], python: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS")}
    # A make that runs these tests would say which folder this one enters.
    command = ["make", "--no-print-directory", "--dry-run", "--always-make", "test-cuda", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout.splitlines()
    assert lines[-1].startswith(f"{python} -m pytest tests/cuda -m cuda -ra ")
    assert ("-W default" in lines[-1]) is bool(given)
    assert (len(lines) == 1) is bool(given), "only the environment takes more lines"
