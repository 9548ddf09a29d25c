"""Loads and unloads adapters in all workers of a server.

Workers share a folder. A worker that is asked writes the change as one line at the end of a journal. Every worker
reads the journal, makes the changes in their order, and writes how many of them it has made. A worker that starts later
makes all of them before it takes requests. No line is ever changed, and a line is written at once, so there is no lock.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import uuid
from pathlib import Path
from typing import Any

from adapter_export.bundle.manifest import ADAPTER_SUFFIX
from adapter_export.errors import InputError
from adapter_export.naming import check_adapter_name
from adapter_export.outputs.files import atomic_file
from adapter_export.reading.files import present, regular_file
from adapter_export.runtime.session import AdapterSession
from adapter_export.serving.names import BASE
from adapter_export.serving.problems import Problem

log = logging.getLogger("adapter_export.serving")

_POLL_SECONDS = 0.05
# How long a change may take in the other workers.
_WAIT_SECONDS = 60.0
_JOURNAL = "changes.jsonl"
_LOAD, _UNLOAD = "load", "unload"


class Repository:
    """Changes of the adapters of a server, as one of its workers makes them."""

    def __init__(self, session: AdapterSession, folder: Path, board: Path) -> None:
        """Makes the changes that other workers have made before.

        Args:
            session: The session of this worker.
            folder: The only folder that adapters are loaded from, besides the bundle itself.
            board: The folder that the workers share.
        """
        self._session, self._folder, self._board = session, folder, board
        self._made = 0
        self._errors: dict[str, str] = {}
        self._lock = asyncio.Lock()
        self.catch_up()

    async def load(self, name: str) -> None:
        """Loads an adapter in all workers: NAME.onnx_adapter of the folder, or else the bundle's adapter of this name.

        Args:
            name: Name of the adapter.

        Raises:
            Problem: The name or the file is wrong, or a worker could not load it.
        """
        check_adapter_name(name)
        if name == BASE:
            raise Problem(400, f"model {BASE!r}: is always loaded")
        await self._change(_LOAD, name)

    async def unload(self, name: str) -> None:
        """Removes an adapter from the memory of all workers. One of the folder is not served after that.

        Args:
            name: Name of the adapter.

        Raises:
            Problem: No such adapter is in memory.
        """
        if name not in self._session.adapters:
            raise Problem(404, f"model {name[:200]!r}: not found", param="model")
        await self._change(_UNLOAD, name)

    async def follow(self) -> None:
        """Makes the changes of other workers, until it is cancelled."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                async with self._lock:
                    await asyncio.to_thread(self.catch_up)
            except Exception:  # a full disk, for example; the next round may succeed
                log.exception("changes of other workers: they are tried again")

    def catch_up(self) -> None:
        """Makes all changes that this worker has not made, and says so to the others."""
        lines = self._lines()
        for change in lines[self._made :]:
            try:
                self._make(change["action"], change["name"])
            except InputError as error:
                self._errors[change["id"]] = " ".join(str(error).split())
                log.warning("%s %s: %s", change["action"], change["name"], error)
        self._made = len(lines)
        state = {"made": self._made, "errors": self._errors}
        if (self._state(os.getpid()) or {}) != state:
            atomic_file(self._board / f"worker-{os.getpid()}.json", json.dumps(state).encode())

    async def _change(self, action: str, name: str) -> None:
        async with self._lock:
            # What fails here is not asked of the others. It is made again below, in the order of the journal, which
            # may have got changes of others meanwhile.
            await asyncio.to_thread(self._make, action, name)
            change = {"id": uuid.uuid4().hex, "action": action, "name": name}
            number = await asyncio.to_thread(self._write, change)
            await asyncio.to_thread(self.catch_up)
        await self._all_made(number, change["id"])

    def _make(self, action: str, name: str) -> None:
        if action == _LOAD:
            self._session.load(name, self._file(name))
            return
        try:
            self._session.unload(name)
        except InputError:
            # If it is not in memory, there is nothing to remove.
            if name in self._session.loaded:
                raise

    def _file(self, name: str) -> Path | None:
        """Returns the file of an adapter in the folder; None for an adapter of the bundle."""
        if any(info.name == name for info in self._session.manifest.adapters):
            return None
        file = self._folder / f"{name}{ADAPTER_SUFFIX}"
        return regular_file(file, self._folder) if present(file) else None

    def _write(self, change: dict[str, str]) -> int:
        """Adds a change to the journal, and returns how many changes it contains up to this one."""
        line = (json.dumps(change) + "\n").encode()
        journal = os.open(self._board / _JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(journal, line)
        finally:
            os.close(journal)
        return 1 + [found["id"] for found in self._lines()].index(change["id"])

    def _lines(self) -> list[dict[str, str]]:
        file = self._board / _JOURNAL
        return [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []

    def _state(self, process: int) -> dict[str, Any] | None:
        file = self._board / f"worker-{process}.json"
        found: dict[str, Any] | None = json.loads(file.read_bytes()) if file.exists() else None
        return found

    async def _all_made(self, number: int, change: str) -> None:
        """Waits until every worker that lives has made the first `number` changes."""
        end = asyncio.get_running_loop().time() + _WAIT_SECONDS
        while True:
            states = await asyncio.to_thread(self._living)
            if all(state["made"] >= number for state in states):
                break
            if asyncio.get_running_loop().time() > end:
                raise Problem(504, f"not all workers have made the change within {_WAIT_SECONDS:g} seconds")
            await asyncio.sleep(_POLL_SECONDS / 2)
        if errors := [state["errors"][change] for state in states if change in state["errors"]]:
            raise Problem(500, f"a worker failed: {errors[0]}")

    def _living(self) -> list[dict[str, Any]]:
        """Returns the states of the workers that live."""
        processes = [int(file.stem.partition("-")[2]) for file in self._board.glob("worker-*.json")]
        return [state for process in processes if _lives(process) and (state := self._state(process)) is not None]


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, as somebody else's
        return True
    return True
