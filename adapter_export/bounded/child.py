"""A child process, kept for the next request, and ended when it takes too long or too much."""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Seconds after which the child ends by itself, should its parent be gone.
_ALONE = 600
# How long it may take to start, on a machine with much else to do; no request's time.
_STARTS = 60.0
_PACKAGES = Path(__file__).parents[2]


class Exceeded(Exception):
    """It took longer, or more memory, than a real one does."""


class Failed(Exception):
    """What the child was asked with is not usable, with the reason."""


class _NoAnswer(Exception):
    """Too slow, or the system ended the process for its memory."""


class _Child:
    """The child process, and a thread that reads its answers: a pipe cannot be waited for everywhere."""

    def __init__(self, memory: int) -> None:
        command = [sys.executable, "-m", "adapter_export.bounded.worker", str(memory), str(_ALONE)]
        # It finds packages where this process does, and none in the current folder.
        path = os.pathsep.join([str(_PACKAGES), *(place for place in sys.path if Path(place).is_absolute())])
        # A session of its own: Ctrl-C is for the parent alone.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True, name="adapter-export-bounded").start()
        if not self._next(_STARTS):
            self.end()
            raise RuntimeError("the child process of adapter_export.bounded does not start")

    def ask(self, request: bytes, seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _NoAnswer from None
        if not (answer := self._next(seconds)):
            raise _NoAnswer
        value: dict[str, Any] = json.loads(answer)
        return value

    def _next(self, seconds: float) -> bytes:
        """The next line of it; empty where none comes in time, or any more."""
        try:
            return self._answers.get(timeout=seconds)
        except queue.Empty:
            return b""

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


class Keeper:
    """Has the child of this process, with so many bytes of memory; a forked process makes one of its own."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.child: _Child | None = None
        self._lock = threading.Lock()
        atexit.register(self.end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The child's answer. Raises Failed for what it cannot use, and Exceeded."""
        try:
            text = json.dumps(request)
        except (TypeError, ValueError) as error:
            raise Failed(f"expected JSON values: {error}") from None
        answer = self._answer(text.encode() + b"\n", seconds)
        if "exceeded" in answer:
            raise Exceeded(f"takes more than {self.memory >> 20} MiB")
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def end(self) -> None:
        """End the child; the next request has another."""
        with self._lock:
            if self.child is not None:
                self.child.end()
                self.child = None

    def _answer(self, request: bytes, seconds: float) -> dict[str, Any]:
        with self._lock:
            child = self.child or _Child(self.memory)
            # While it answers it is nobody's: an interrupted request leaves no answer behind for the next one.
            self.child = None
            try:
                answer = child.ask(request, seconds)
            except _NoAnswer:
                child.end()
                raise Exceeded(f"takes more than {seconds:g} seconds or {self.memory >> 20} MiB") from None
            except BaseException:
                child.end()
                raise
            self.child = child
        return answer

    def _forget(self) -> None:
        """After a fork: the child is the parent process's, and whoever held the lock is not here."""
        self._lock = threading.Lock()
        if self.child is not None:
            # It is not ours to wait for, and not a process that was forgotten.
            self.child._process.returncode = 0
        self.child = None
