"""What a new architecture and a new method take: one file each, and its test. The patches are applied to a copy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# By patch: the only files that it may touch, and what is run with it.
ADDITIONS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "architecture": (
        ("adapter_export/architectures/families/starcoder2.py", "tests/architectures/test_starcoder2.py"),
        ("tests/architectures/test_starcoder2.py",),
    ),
    "method": (
        ("adapter_export/methods/shift.py", "tests/methods/test_shift.py"),
        ("tests/methods/test_shift.py", "tests/methods/test_contract.py", "-k", "shift"),
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git, which applies the patch")
@pytest.mark.parametrize("name", ADDITIONS)
def test_one_file_and_its_test_are_all_it_takes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs torch, in a process of its own")
    files, arguments = ADDITIONS[name]
    patch = Path(__file__).with_name(f"{name}.patch")
    assert tuple(re.findall(r"^\+\+\+ b/(.*)$", patch.read_text(encoding="utf-8"), re.MULTILINE)) == files
    for folder in ("adapter_export", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("goldens", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    # Elsewhere than in a repository, git applies a patch to files alone.
    subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert re.search(r"\d+ passed", run.stdout)
