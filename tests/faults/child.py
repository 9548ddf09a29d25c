"""Commands in child processes, which start at once: the modules are imported before the fork."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Seconds after which a command counts as hanging.
HANGS = 120.0


@dataclass(frozen=True)
class Ended:
    """How a child ended. code: its exit code, or minus the signal that killed it; None for one that hung."""

    code: int | None
    stderr: str
    seconds: float


def start(log: Path, action: Callable[[], int]) -> int:
    """Fork a child that does `action` and exits with what it returns; its output goes to `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = action()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child: int, log: Path, send: int | None = None, after: float = 0.0) -> Ended:
    """Wait for a child, and send it a signal after so many seconds."""
    begin = time.monotonic()
    sent = False
    while time.monotonic() - begin < HANGS:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"), time.monotonic() - begin)
        if send is not None and not sent and time.monotonic() - begin >= after:
            os.kill(child, send)
            sent = True
        time.sleep(0.001 if not sent else 0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return Ended(None, log.read_text(errors="replace"), HANGS)


def command(arguments: Sequence[str]) -> int:
    """Run the command line in this process; returns its exit code."""
    from adapter_export.cli import main

    try:
        main(list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def run(arguments: Sequence[str], log: Path, send: int | None = None, after: float = 0.0) -> Ended:
    """A command from start to end."""
    return wait(start(log, lambda: command(arguments)), log, send, after)
