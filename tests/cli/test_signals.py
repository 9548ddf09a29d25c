"""A command that is told to end leaves nothing behind, whatever the signal, and says so by its exit code."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bundles import Exported
from tests.training.conftest import texts, write_jsonl

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are a matter of Unix")

# Runs the command line, and sends the signal to itself in the middle of the work: in a function of the module.
CODE = """
import importlib, os, signal, sys
from adapter_export.cli import main
module, name, number = sys.argv[1:4]
del sys.argv[1:4]
module = importlib.import_module(module)
def send(*arguments, **options):
    os.kill(os.getpid(), int(number))
    return original(*arguments, **options)
original = getattr(module, name)
setattr(module, name, send)
main()
"""


# Whatever started the tests may ignore a signal, as `nohup` does; a command would ignore it, too.
HEEDED = """
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
"""


def run(module: str, name: str, number: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HEEDED + CODE, module, name, str(int(number)), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated (SIGTERM)"),
        (signal.SIGHUP, 129, "ended: the terminal was closed (SIGHUP)"),
    ],
)
def test_each_signal(swappable_bundle: Exported, tmp_path: Path, number: signal.Signals, code: int, line: str) -> None:
    adapter = swappable_bundle.adapters["ia3_two"]
    arguments = ("merge", "--model", swappable_bundle.base, "--adapter", adapter, "--output", tmp_path / "a" / "b")
    done = run("adapter_export.merging.merge", "_write", number, *arguments)
    assert (done.returncode, done.stderr, done.stdout) == (code, f"{line}\n", "")
    assert left(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["onnx", "add", "train"])
def test_each_command(
    swappable_bundle: Exported, tiny_model: Callable[..., Path], tmp_path: Path, command: str
) -> None:
    adapter = f"x={swappable_bundle.adapters['ia3_two']}"
    data = write_jsonl(tmp_path / "train.jsonl", texts(12))
    bundle = shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle")
    before = left(tmp_path)
    output = ("--output", tmp_path / "deep" / "output")
    module, name, *arguments = {
        "onnx": ("export.export", "write_bundle", "--model", swappable_bundle.base, "--adapter", adapter, "--mode",
                 "swappable", *output),
        "add": ("bundle.add", "write_adapter", "--bundle", bundle, "--adapter", adapter),
        "train": ("training.train", "save_adapter", "--model", tiny_model("bert", "text-classification"), "--method",
                  "ia3", "--task", "text-classification", "--train", data, "--max-steps", "1", *output),
    }[command]  # fmt: skip
    done = run(f"adapter_export.{module}", str(name), signal.SIGTERM, command, *map(str, arguments))
    assert done.returncode == 143, done.stderr
    assert done.stderr.endswith("terminated (SIGTERM)\n")
    if command == "train":
        # What was trained is not lost.
        assert "--resume continues from there" in done.stderr
        assert (tmp_path / "deep" / "output.partial" / "checkpoint-1" / "complete").exists()
        shutil.rmtree(tmp_path / "deep")
    assert left(tmp_path) == before


def test_a_signal_whose_exception_gets_lost(swappable_bundle: Exported, tmp_path: Path) -> None:
    """Python drops an exception that is raised in a finalizer."""
    code = CODE.replace(
        "os.kill(os.getpid(), int(number))",
        "type('Lost', (), {'__del__': lambda self: os.kill(os.getpid(), int(number))})()",
    )
    assert code != CODE
    adapter = swappable_bundle.adapters["ia3_two"]
    command = [
        sys.executable, "-c", code, "adapter_export.merging.merge", "_write", str(int(signal.SIGTERM)), "merge",
        "--model", str(swappable_bundle.base), "--adapter", str(adapter), "--output", str(tmp_path / "output"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Exception ignored" in done.stderr
    assert done.returncode == 143
    assert left(tmp_path) == []


def test_what_the_starter_of_a_command_ignores_is_ignored(swappable_bundle: Exported, tmp_path: Path) -> None:
    """As `nohup` does with SIGHUP."""
    code = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{CODE}"
    adapter = swappable_bundle.adapters["ia3_two"]
    command = [
        sys.executable, "-c", code, "adapter_export.merging.merge", "_write", str(int(signal.SIGHUP)), "merge",
        "--model", str(swappable_bundle.base), "--adapter", str(adapter), "--output", str(tmp_path / "output"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output" / "adapter_export.json").exists()
