"""The record of a command about the output that it writes. After a kill, the next command cleans up by it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from adapter_export.outputs.files import write_json
from adapter_export.reading.json_files import json_or_empty

_WRITTEN_BY = "adapter-export"
_MAX_BYTES = 16 << 20
# The most characters of a text in it. A file name has at most 255 bytes.
_MAX_TEXT = 256


@dataclass(frozen=True)
class OutputRecord:
    """What a command has done for an output so far.

    Attributes:
        output: Name of the folder that is written.
        pid: Number of the process.
        host: Name of the machine.
        started: When the command started.
        made: Parents of the folder that were made for it, by their absolute paths.
        placed: Files of the output, by their paths in it, that are about to be added or removed. Those that no listing
            of the output names are to be removed.
        scratch: Whether `OUTPUT.partial` is to be removed as well.
    """

    output: str
    pid: int
    host: str
    started: str
    made: tuple[str, ...] = ()
    placed: tuple[str, ...] = ()
    scratch: bool = False
    written_by: str = field(default=_WRITTEN_BY)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, started {self.started}"

    def is_alive(self) -> bool:
        """Returns whether its process may still run. A process on another machine counts as running, as it cannot
        be seen.
        """
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


def record_of(target: Path, made: tuple[str, ...]) -> OutputRecord:
    """Returns a record of this process, which begins to write `target`."""
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return OutputRecord(target.name, os.getpid(), socket.gethostname(), started, made)


def write_record(path: Path, record: OutputRecord) -> None:
    """Writes the record as a whole or not at all. Raises OSError."""
    write_json(path, asdict(record))


def read_record(path: Path, target: Path) -> OutputRecord | None:
    """Returns the record at `path` if it is one of ours about the output `target`; None otherwise.

    A record may have come with a stranger's folder. So no path in it may lead out of the output, and the parents must
    be parents of the output.
    """
    value = json_or_empty(path, _MAX_BYTES)
    if not _is_record(value, target):
        return None
    return OutputRecord(**{**value, "made": tuple(value["made"]), "placed": tuple(value["placed"])})


def _is_record(value: Mapping[str, Any], target: Path) -> bool:
    if set(value) != {item.name for item in fields(OutputRecord)}:
        return False
    texts = value["output"], value["host"], value["started"], value["written_by"]
    made, placed, pid = value["made"], value["placed"], value["pid"]
    return (
        all(isinstance(text, str) and text.isprintable() and len(text) < _MAX_TEXT for text in texts)
        and (value["written_by"], value["output"]) == (_WRITTEN_BY, target.name)
        and (type(pid) is int and 0 < pid < 1 << 31)
        and type(value["scratch"]) is bool
        and (isinstance(made, list) and all(isinstance(name, str) for name in made))
        and set(made) <= {str(parent) for parent in target.parents}
        and (isinstance(placed, list) and all(map(_is_below, placed)))
    )


def _is_below(name: Any) -> bool:
    """Returns whether it is a plain path below a folder."""
    if not isinstance(name, str) or not name or set(name) & set("\\:\0"):
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and str(path) == name and ".." not in path.parts
