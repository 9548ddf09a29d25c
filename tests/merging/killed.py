"""Merge again and again, killed at every step: before each change of the file system, and after each chunk written.

    python -m tests.merging.killed FOLDER

For each n a child merges FOLDER/model and FOLDER/adapter into FOLDER/after-n/out, where an older output may lie
already (a copy of FOLDER/old), and is killed by SIGKILL at its n-th step, until it gets through. Prints the last n.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from tests.outputs.killed import CHANGES


class Killer:
    """Kills this process at its `count`-th step."""

    def __init__(self, count: int) -> None:
        self.left = count

    def step(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_WRONLY):
            self.step()


def main(folder: Path) -> None:
    from adapter_export.merging import merge as module

    for count in range(1, 1000):
        output = folder / f"after-{count}" / "out"
        if (folder / "old").exists():
            shutil.copytree(folder / "old", output)
        output.parent.mkdir(exist_ok=True)
        if (child := os.fork()) == 0:
            killer = Killer(count)
            sys.addaudithook(killer.audit)
            module.merge(folder / "model", folder / "adapter", output, force=True, progress=killer.step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            print(count)
            return
        assert os.WIFSIGNALED(status), status


if __name__ == "__main__":
    main(Path(sys.argv[1]))
