"""The tests on other Pythons than that of .venv: `python -m tests.pythons`, which writes docs/pythons.md.

Each Python gets two environments, one after the other, in .cache/pythons: the base installation, in which tests that
need an extra are skipped, and then all extras, with the tests of a core. PyTorch is the build that pip finds for that
Python; on Linux it needs some GB for CUDA, so the environment is removed before the next.

VERSION ...         of Python, such as 3.12; 3.10, 3.12 and 3.13 without it
--extras none|all   the base installation only, or all extras only
--workers N         tests at a time, 1 by default
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from samples.assets import CACHE_VARIABLE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".cache" / "pythons"
PAGE = ROOT / "docs" / "pythons.md"
VERSIONS = ("3.10", "3.12", "3.13")
# With all extras: reading, merging, export in every mode, sessions, generation, parity, training, the commands.
CORE = (
    "tests/checkpoints", "tests/merging/test_merge.py", "tests/export/test_plain.py", "tests/runtime/test_session.py",
    "tests/runtime/generation/test_generate.py", "tests/parity/test_run.py", "tests/training/test_train.py",
    "tests/cli/test_onnx.py", "tests/cli/test_parity.py",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a run of tests gave."""

    python: str
    extras: str
    torch: str
    passed: int
    failed: int
    skipped: int
    minutes: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pythons")
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--extras", choices=("none", "all"))
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    failed = 0
    for version in options.versions:
        if (python := _found(version)) is None:
            print(f"python{version}: not found, or it does not run; put it on PATH", file=sys.stderr)
            return 1
        folder = FOLDER / version
        shutil.rmtree(folder, ignore_errors=True)
        _run(python, "-m", "venv", str(folder))
        for extras in ("none", "all") if options.extras is None else (options.extras,):
            outcome = _tested(folder, extras, options.workers)
            print(outcome, flush=True)
            PAGE.write_text(_page(_row(outcome, options.workers)))
            failed += outcome.failed
        shutil.rmtree(folder)
    return int(failed > 0)


def _found(version: str) -> str | None:
    """The interpreter of a version. A command of a version manager may be there and not run."""
    path = shutil.which(f"python{version}")
    if path is None:
        return None
    return path if subprocess.run([path, "--version"], check=False, capture_output=True).returncode == 0 else None


def _tested(folder: Path, extras: str, workers: int) -> Outcome:
    python, report = str(folder / "bin" / "python"), folder / "junit.xml"
    base = extras == "none"
    _run(python, "-m", "pip", "install", "--quiet", "-c", "constraints.txt", ".[test]" if base else ".[test,all]")
    tests = ["-p", "tests.pythons.absent"] if base else [*CORE]
    parallel = ["--numprocesses", str(workers), "--dist", "loadfile"] if workers > 1 else []
    start = time.monotonic()
    # Environments that tests make for other tools see the packages of this one, and go when it goes.
    environment = {**os.environ, CACHE_VARIABLE: str(folder / "cache")}
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-m", "not real and not cuda", f"--junitxml={report}", *parallel, *tests],
        check=False, cwd=ROOT, env=environment,
    )  # fmt: skip
    # 1 is a failed test. After anything else, the report does not have all tests.
    if done.returncode not in (0, 1):
        sys.exit(f"pytest ended with {done.returncode}")
    minutes = (time.monotonic() - start) / 60
    suite = next(ElementTree.parse(report).iter("testsuite"))
    number = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    failed = number["failures"] + number["errors"]
    passed = number["tests"] - failed - number["skipped"]
    whole = _output(python, "-c", "import platform; print(platform.python_version())")
    torch = "none" if base else _output(python, "-c", "import importlib.metadata as m; print(m.version('torch'))")
    return Outcome(whole, extras, torch, passed, failed, number["skipped"], minutes)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, cwd=ROOT)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def _row(item: Outcome, workers: int) -> str:
    commit = _output("git", "rev-parse", "--short", "HEAD")
    return (
        f"| {item.python} | {item.extras} | {item.torch} | {item.passed:,} | {item.failed} | {item.skipped:,} "
        f"| {item.minutes:.0f} | {workers} | {datetime.date.today().isoformat()}, {commit} |"
    )


def _page(row: str) -> str:
    """The page with this row, and with those that it has of other environments."""
    before = PAGE.read_text().splitlines() if PAGE.exists() else []
    kept = [line for line in before if re.match(r"\| \d", line) and _environment(line) != _environment(row)]
    lines = "\n".join(sorted([*kept, row], key=_environment))
    return f"""# Versions of Python

The whole suite runs on Python 3.11 with every change (`make test`). `make test-pythons` runs it on the others, on the
base installation, where tests that need an extra are skipped, and then the tests of a core with all extras. Tests of
real models are left out. It writes this page.

| Python | extras | PyTorch | passed | failed | skipped | minutes | at a time | date, commit |
|---|---|---|--:|--:|--:|--:|--:|---|
{lines}

On {platform.system()} {platform.machine()}, {os.cpu_count()} processors. Minutes are those of the tests, without the
installation.
"""


def _environment(row: str) -> tuple[int, int, bool]:
    """What a row is about: the Python, without its last number, and whether it has extras."""
    _, python, extras, *_ = row.split("|")
    major, minor, _ = python.strip().split(".")
    return int(major), int(minor), extras.strip() == "all"


if __name__ == "__main__":
    sys.exit(main())
