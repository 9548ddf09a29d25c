"""Packages of npm: onnxruntime-node for what is written in JavaScript, and whatever else a test runs in Node."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from samples.assets import cache

SAMPLES = Path(__file__).resolve().parents[1] / "samples" / "javascript"
PACKAGE = "onnxruntime-node@1.30.0"


def installed(*packages: str, prepare: Callable[[Path], None] | None = None) -> Path:
    """A folder with the packages, filled once and named after the first; appears whole or not at all. Skips where it
    cannot be had. prepare: called with the folder before it takes its place.
    """
    if (npm := shutil.which("npm")) is None or shutil.which("node") is None:
        pytest.skip("needs node and npm")
    target = cache() / packages[0].strip("@").replace("@", "-").replace("/", "-")
    if target.is_dir():
        return target
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix=".node-") as scratch:
        # Install scripts would fetch more: CUDA libraries, for one.
        made = Path(scratch, "packages")
        made.mkdir()
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", f"--prefix={made}", *packages]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{packages[0]} could not be installed: {' '.join(done.stderr.split())[-300:]}")
        if prepare is not None:
            prepare(made)
        try:
            made.rename(target)
        except OSError:
            # Another process was faster: what it made is the same.
            if not target.is_dir():
                raise
    return target


def beside(folder: Path) -> None:
    """Put the package and the samples' scripts into `folder`."""
    (folder / "node_modules").symlink_to(installed(PACKAGE) / "node_modules")
    for script in SAMPLES.glob("*.mjs"):
        shutil.copy(script, folder)
