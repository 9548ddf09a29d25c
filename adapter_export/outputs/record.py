"""What a command writes down about the output it is writing, so that the next one can clean up after a kill."""

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
# Characters of a text in it: a file name has at most 255 bytes.
_MAX_TEXT = 256


@dataclass(frozen=True)
class OutputRecord:
    """output: name of the folder that is written. made: parents of it that were not there before, by their absolute
    paths. placed: files of the output, by their paths there, that are about to come or go: those that no listing of
    the output names are to be removed. scratch: whether `OUTPUT.partial` is to be removed as well."""

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
        """Whether its process may still run. What runs on another machine cannot be seen from here."""
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
    """A record of this process, which begins to write `target`."""
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return OutputRecord(target.name, os.getpid(), socket.gethostname(), started, made)


def write_record(path: Path, record: OutputRecord) -> None:
    """Write the record, whole or not at all. Raises OSError."""
    write_json(path, asdict(record))


def read_record(path: Path, target: Path) -> OutputRecord | None:
    """The record at `path` if it is one of ours about the output `target`, else None.

    A record may have come with a stranger's folder: nothing in it leads out of the output, and the parents are of its
    own path.
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
    """Whether it is a plain path below a folder."""
    if not isinstance(name, str) or not name or set(name) & set("\\:\0"):
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and str(path) == name and ".." not in path.parts
