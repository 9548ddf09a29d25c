"""Where a package of an extra is absent, tests that need it are skipped by its name, and all others count."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = {
    "test_needs": "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\nHELPER = 1",
    # What is left of a module that could not be imported has no HELPER.
    "test_shares": "from test_needs import HELPER\ndef test_it(): pass",
    "test_inside": "def test_it():\n    raise ModuleNotFoundError('x', name='transformers.models')",
    "test_cause": "def test_it():\n    try:\n        import peft_of_nobody\n    except ImportError as error:\n"
    "        raise ValueError('y') from ModuleNotFoundError('x', name='peft')",
    "test_wrong": "from test_right import NOTHING",
    "test_right": "def test_it(): pass",
}


def test_what_is_skipped_and_what_fails(tmp_path: Path) -> None:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text + "\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\naddopts = --import-mode=importlib\n")
    command = [sys.executable, "-m", "pytest", "-q", "-rsfEp", "-p", "tests.pythons.absent", "--color=no"]
    command += ["--continue-on-collection-errors", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    found = dict(re.findall(r"^SKIPPED \[1\] (\w+)\.py:0: (.*)$", done.stdout, re.MULTILINE))
    assert found == {
        "test_needs": "needs torch",
        "test_shares": "needs torch",
        "test_inside": "needs transformers",
        "test_cause": "needs peft",
    }, done.stdout
    assert re.search(r"^ERROR test_wrong\.py", done.stdout, re.MULTILINE)
    assert re.search(r"^PASSED test_right\.py::test_it", done.stdout, re.MULTILINE)
