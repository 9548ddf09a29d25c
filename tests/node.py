"""onnxruntime-node, for what is written in JavaScript."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from samples.assets import cache

SAMPLES = Path(__file__).resolve().parents[1] / "samples" / "javascript"
PACKAGE = "onnxruntime-node@1.30.0"


def installed() -> Path:
    """A folder with the package, filled once; appears whole or not at all. Skips where it cannot be had."""
    if (npm := shutil.which("npm")) is None or shutil.which("node") is None:
        pytest.skip("needs node and npm")
    target = cache() / PACKAGE.replace("@", "-")
    if target.is_dir():
        return target
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix=".node-") as scratch:
        # Its install script would fetch CUDA libraries.
        made = Path(scratch, "packages")
        made.mkdir()
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", f"--prefix={made}", PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{PACKAGE} could not be installed: {' '.join(done.stderr.split())[-300:]}")
        try:
            made.rename(target)
        except OSError:
            # Another process was faster: what it made is the same.
            if not target.is_dir():
                raise
    return target


def beside(folder: Path) -> None:
    """Put the package and the samples' scripts into `folder`."""
    (folder / "node_modules").symlink_to(installed() / "node_modules")
    for script in SAMPLES.glob("*.mjs"):
        shutil.copy(script, folder)
