"""Packages of npm: onnxruntime-node for what is written in JavaScript, and whatever else a test runs in Node."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from samples.assets import cache

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
JAVASCRIPT = SAMPLES / "javascript"
PACKAGE = "onnxruntime-node@1.30.0"
# Install scripts would fetch more: CUDA libraries, for one.
_OPTIONS = ("--ignore-scripts", "--no-audit", "--no-fund")


def installed(*packages: str, prepare: Callable[[Path], None] | None = None) -> Path:
    """A folder with the packages, filled once and named after the first; appears whole or not at all. Skips where it
    cannot be had. prepare: called with the folder before it takes its place.
    """

    def fill(made: Path) -> None:
        npm(made, "install", *packages)
        if prepare is not None:
            prepare(made)

    return _filled(packages[0].strip("@").replace("@", "-").replace("/", "-"), fill)


def locked(folder: Path, *beside: Path) -> Path:
    """The node_modules that the lock file of a package asks for, filled once for each content of it. Skips where they
    cannot be had.

    Args:
        folder: Has package.json and package-lock.json.
        beside: Packages that package.json names by their path, `file:../NAME`.
    """

    def fill(made: Path) -> None:
        for package in (folder, *beside):
            (made / package.name).mkdir()
            shutil.copy(package / "package.json", made / package.name)
        shutil.copy(lock, made / folder.name)
        npm(made / folder.name, "ci")

    lock = folder / "package-lock.json"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    return _filled(f"{folder.name}-{digest}", fill) / folder.name / "node_modules"


def npm(folder: Path, *command: str) -> None:
    """Installs packages into a folder. Skips with npm's words where it fails."""
    line = [shutil.which("npm") or "npm", *command[:1], *_OPTIONS, f"--prefix={folder}", *command[1:]]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm {' '.join(command)}: {' '.join(done.stderr.split())[-300:]}")


def linked(packages: Path, target: Path, own: Path) -> None:
    """Make `target` a node_modules folder that has links to the packages in `packages`, and `own` in place of its
    namesake.
    """
    target.mkdir()
    for package in packages.iterdir():
        if package.name != _name(own):
            (target / package.name).symlink_to(package)
    (target / _name(own)).symlink_to(own)


def beside(folder: Path) -> None:
    """Put into `folder` onnxruntime-node, the package for JavaScript, and its example."""
    linked(installed(PACKAGE) / "node_modules", folder / "node_modules", JAVASCRIPT)
    shutil.copy(JAVASCRIPT / "run.mjs", folder)


def _name(package: Path) -> str:
    name: str = json.loads((package / "package.json").read_text(encoding="utf-8"))["name"]
    return name


def _filled(name: str, fill: Callable[[Path], None]) -> Path:
    """The folder of this name in the cache, filled once; appears whole or not at all."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("needs node and npm")
    target = cache() / name
    if target.is_dir():
        return target
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix=".node-") as scratch:
        made = Path(scratch, "packages")
        made.mkdir()
        fill(made)
        try:
            made.rename(target)
        except OSError:
            # Another process was faster: what it made is the same.
            if not target.is_dir():
                raise
    return target
