"""Run an action again and again, killed at every step at which it touches the file system.

    python killed.py ACTION FOLDER ARGUMENTS...     (see ACTIONS)

For each n, a child process does the action on a fresh copy of FOLDER/given and is killed by SIGKILL before its n-th
change of the file system, until it gets through. What it left is kept as FOLDER/after-n; the last one is complete.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Events of Python's own that change files: writing opens count, reading ones do not.
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.truncate", "shutil.rmtree"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def kill_before(count: int) -> None:
    """Kill this process before its `count`-th change."""
    left = [count]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def add(folder: Path, *arguments: str) -> None:
    from adapter_export.bundle.add import add_adapter

    add_adapter(folder / "bundle", dict(item.split("=", 1) for item in arguments), force=True)


def write_folder(folder: Path, *arguments: str) -> None:
    from adapter_export.bundle.layout import atomic_folder

    with atomic_folder(folder / "new" / "output", force=True) as temporary:
        (temporary / "inner").mkdir()
        for name in ("a", "b", "inner/c", "manifest.json"):
            (temporary / name).write_text("new")


ACTIONS: dict[str, Callable[..., None]] = {"add": add, "write_folder": write_folder}


def main(action: str, folder: Path, *arguments: str) -> None:
    # What is imported now need not be imported by every child.
    import onnxruntime  # noqa: F401

    import adapter_export.bundle.add
    import adapter_export.bundle.layout
    import adapter_export.checkpoints.files  # noqa: F401

    for count in range(1, 1000):
        copy = Path(shutil.copytree(folder / "given", folder / f"after-{count}"))
        if (child := os.fork()) == 0:
            kill_before(count)
            ACTIONS[action](copy, *arguments)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            print(count)
            return
        assert os.WIFSIGNALED(status), status


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
