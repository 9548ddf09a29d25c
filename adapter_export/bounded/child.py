"""The parent's side: one child process, kept for the next request, ended when it takes too long or too much."""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Real expressions and templates take milliseconds and some MB. The memory is that of the whole process.
SECONDS = 5.0
MEMORY_BYTES = 512 << 20
# Seconds after which the child ends by itself, should its parent be gone.
_ALONE = 10
_PROGRAM = Path(__file__).with_name("worker.py")


class Exceeded(Exception):
    """It took longer, or more memory, than a real one does."""

    def __init__(self) -> None:
        super().__init__(f"takes more than {SECONDS:g} seconds or {MEMORY_BYTES >> 20} MiB")


class Failed(Exception):
    """The expression or the template is not usable, with the reason."""


def matching(patterns: Sequence[str], names: Iterable[str], *, whole: bool = True) -> set[str]:
    """Those of the names that one of the regular expressions matches: as a whole (re.fullmatch), or from the start
    (re.match).

    Raises Failed for what is no expression, and Exceeded.
    """
    listed = list(names)
    found = _ask({"kind": "match", "patterns": patterns, "names": listed, "whole": whole})["found"]
    return {name for name, matches in zip(listed, found, strict=True) if matches}


def render(template: str, given: Mapping[str, Any]) -> str:
    """The text that a chat template makes of what it is given, which is JSON. Raises Failed and Exceeded."""
    return str(_ask({"kind": "render", "template": template, "given": dict(given)})["text"])


class _Child:
    """The child process, and a thread that reads its answers: a pipe cannot be waited for everywhere."""

    def __init__(self) -> None:
        command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", str(_PROGRAM)]
        # It finds jinja2 where this process does.
        path = os.pathsep.join(place for place in sys.path if Path(place).is_absolute())
        # A session of its own: Ctrl-C is for the parent alone.
        self._process = subprocess.Popen(
            [*command, str(MEMORY_BYTES), str(_ALONE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True, name="adapter-export-bounded").start()

    def ask(self, request: bytes) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
            answer = self._answers.get(timeout=SECONDS)
        except (queue.Empty, BrokenPipeError):
            answer = b""
        if not answer:
            # Too slow, or the system ended it for its memory.
            self.end()
            raise Exceeded
        value: dict[str, Any] = json.loads(answer)
        return value

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was still to be written has nobody to read it
                    continue

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._answers.put(line)
        except ValueError:  # closed meanwhile
            pass
        self._answers.put(b"")


class _Keeper:
    """Has the child of this process; a forked process makes one of its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.child: _Child | None = None

    def ask(self, request: bytes) -> dict[str, Any]:
        with self.lock:
            child = self.child or _Child()
            # While it answers it is nobody's: an interrupted request leaves no answer behind for the next one.
            self.child = None
            try:
                answer = child.ask(request)
            except BaseException:
                child.end()
                raise
            self.child = child
        return answer

    def end(self) -> None:
        with self.lock:
            if self.child is not None:
                self.child.end()
                self.child = None

    def forget(self) -> None:
        """After a fork: the child is the parent process's, and whoever held the lock is not here."""
        self.lock = threading.Lock()
        if self.child is not None:
            # It is not ours to wait for, and not a process that was forgotten.
            self.child._process.returncode = 0
        self.child = None


_keeper = _Keeper()
atexit.register(_keeper.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keeper.forget)


def _ask(request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(request)
    except (TypeError, ValueError) as error:
        raise Failed(f"expected JSON values: {error}") from None
    answer = _keeper.ask(text.encode() + b"\n")
    if "exceeded" in answer:
        raise Exceeded
    if "error" in answer:
        raise Failed(answer["error"])
    return answer
