"""A child process that answers requests. It is ended when a request takes too much time or memory."""

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

# Seconds after which the child ends by itself if its parent has ended.
_ALONE = 600
# Seconds that the start may take on a busy machine. They do not count for a request.
_STARTS = 60.0
_PACKAGES = Path(__file__).parents[2]


class Exceeded(Exception):
    """The request took more time or memory than any real one does."""


class Failed(Exception):
    """The request cannot be answered, with the reason."""


class _NoAnswer(Exception):
    """The child was too slow, or the system ended it for its memory."""


class _Child:
    """The child process, with a thread that reads its answers, as not every system can wait for a pipe with a time
    limit.
    """

    def __init__(self, memory: int) -> None:
        command = [sys.executable, "-m", "adapter_export.bounded.worker", str(memory), str(_ALONE)]
        # The child finds packages where this process finds them, and not in the current folder.
        path = os.pathsep.join([str(_PACKAGES), *(place for place in sys.path if Path(place).is_absolute())])
        # In a session of its own, so that Ctrl-C reaches the parent only.
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
        """Returns the next line of the child; empty if none comes in time, or if the child has ended."""
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
                except OSError:  # The rest of a request cannot be written any more.
                    continue

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._answers.put(line)
        except ValueError:  # The pipe was closed meanwhile.
            pass
        self._answers.put(b"")


class Keeper:
    """Starts the child of this process with a limit of memory, and keeps it. A forked process gets a child of its
    own.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.child: _Child | None = None
        self._lock = threading.Lock()
        atexit.register(self.end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Returns the child's answer.

        Args:
            request: The request.
            seconds: How long it may take.

        Raises:
            Failed: The child cannot answer the request.
            Exceeded: The request takes too much time or memory.
        """
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
        """Ends the child. The next request starts a new one."""
        with self._lock:
            if self.child is not None:
                self.child.end()
                self.child = None

    def _answer(self, request: bytes, seconds: float) -> dict[str, Any]:
        with self._lock:
            child = self.child or _Child(self.memory)
            # Not kept while it answers, so that the answer to an interrupted request is not read by the next one.
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
        """Forgets the child after a fork: it belongs to the parent process, and so does the thread that held the
        lock.
        """
        self._lock = threading.Lock()
        if self.child is not None:
            # This process must not wait for it, and Python must not report it as a forgotten process.
            self.child._process.returncode = 0
        self.child = None
