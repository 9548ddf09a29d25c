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

from adapter_export.outputs.files import write_json

# Events of Python's own that change files: writing opens count, reading ones do not.
CHANGES = {
    "adapter_export.exchange",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.chmod",
    "os.truncate",
    "shutil.rmtree",
}
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
    from adapter_export.outputs.folder import output_folder

    with output_folder(folder / "new" / "output", force=True) as written:
        (written.folder / "inner").mkdir()
        names = ("a", "b", "inner/c")
        for name in names:
            (written.folder / name).write_text("new")
        write_json(written.folder / "adapter_export.json", {"files": names})
        written.commit()


def write_folder_in_two_steps(folder: Path, *arguments: str) -> None:
    """As on a system that cannot exchange two folders."""
    from adapter_export.outputs import folder as module

    module.exchange = lambda one, other: False
    write_folder(folder, *arguments)


def fill_in_place(folder: Path, *arguments: str) -> None:
    """As where only the inside of the output can be written."""
    from adapter_export.outputs import folder as module

    module._only_from_within = lambda target: True
    write_folder(folder, *arguments)


ACTIONS: dict[str, Callable[..., None]] = {
    action.__name__: action for action in (add, write_folder, write_folder_in_two_steps, fill_in_place)
}


def main(action: str, folder: Path, *arguments: str) -> None:
    # What is imported now need not be imported by every child.
    import onnxruntime  # noqa: F401

    import adapter_export.bundle.add
    import adapter_export.outputs.folder
    import adapter_export.reading.hashes  # noqa: F401

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
