"""Every change of the file system failing in turn: a disk that is full from then on (ENOSPC), one error (EIO)."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.faults.child import command, start, wait
from tests.faults.journal import Journal
from tests.faults.subject import COMMANDS, NEW, Subject, leftovers


def can_fail() -> bool:
    """Whether the library that lets changes fail is loaded."""
    return os.environ.get("LD_PRELOAD", "").endswith("shim.so")


def preload(folder: Path) -> None:
    """Start this program again with the library that lets changes fail, unless it is loaded already. Without a C
    compiler, and elsewhere than on Linux, the part is left out."""
    if sys.platform != "linux" or shutil.which("cc") is None or can_fail():
        return
    library = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    os.execve(
        sys.executable,
        [sys.executable, "-m", "tests.faults", *sys.argv[1:]],
        {**os.environ, "LD_PRELOAD": str(library)},
    )


def failing(journal: Journal, subject: Subject, work: Path, most: int | None = None) -> None:
    """Each change of the file system in turn; `most` of them, evenly apart."""
    log = work.with_suffix(".log")
    for name in COMMANDS:
        for error in (errno.ENOSPC, errno.EIO):
            for replaced in (False, True):
                output = subject.prepare(name, work, replaced)
                counted = wait(
                    start(log, lambda name=name, output=output, error=error: _armed(subject, name, output, 0, error)),
                    log,
                )
                total = int(counted.stderr.rpartition("steps: ")[2])
                tried = min(total, most or total)
                for index in range(tried):
                    step = 1 + index * total // tried

                    def make(
                        name: str = name, error: int = error, replaced: bool = replaced, step: int = step
                    ) -> str | None:
                        return _trial(subject, work, name, error, replaced, step)

                    kind = "with an earlier output" if replaced else "new"
                    journal.trial(f"{errno.errorcode[error]} at each write", f"{name}, {kind}, step {step}", make)


def _trial(subject: Subject, work: Path, name: str, error: int, replaced: bool, step: int) -> str | None:
    output = subject.prepare(name, work, replaced)
    before = subject.state(name, output)
    log = work.with_suffix(".log")
    ended = wait(start(log, lambda: _armed(subject, name, output, step, error)), log)
    state = subject.state(name, output)
    message = ended.stderr.rpartition("steps: ")[0]
    if ended.code is None:
        return "the command hung"
    if ended.code not in (0, 2):
        return f"exit {ended.code}: {ended.stderr[-300:]}"
    # The last steps come after the output is there: their failure may be told, and nothing is lost by it.
    if state not in ({NEW} if ended.code == 0 else {before, NEW}):
        return f"exit {ended.code}: the output is {state}, it was {before}"
    told = os.strerror(error) in message or "could not be written" in message
    if ended.code == 2 and (not told or "Traceback" in message):
        return f"the message does not tell: {message[-300:]}"
    if left := leftovers(work, output):
        return f"left behind: {', '.join(left)}"
    return None


def _armed(subject: Subject, name: str, output: Path, step: int, error: int) -> int:
    """The command with its `step`-th change of the output's surroundings failing; 0 counts them only."""
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    shim.fault_arm(os.fsencode(output.parents[1]) + b"/", ctypes.c_long(step), error, int(error == errno.ENOSPC))
    code = command(subject.arguments(name, output))
    steps = ctypes.c_long(shim.fault_steps()).value
    # What is cleaned up afterwards is no part of it.
    shim.fault_arm(b"", ctypes.c_long(0), 0, 0)
    print(f"steps: {steps}", file=sys.stderr)
    return code
