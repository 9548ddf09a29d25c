"""The hidden folder in which a command prepares what it writes, and which one command at a time can have.

It lies beside the output (`.NAME.adapter-export`), or inside it (`.adapter-export`) where only the inside can be
written. It holds:

    lock          locked while the command runs; the system frees it when the process ends, even by SIGKILL
    record.json   whose folder it is, and what the command has made and placed so far
    new           what is to become the output
    old           what the output held before, where the system cannot exchange two folders in one step

Whoever finds such a folder without a lock on it, and with a record of this output, knows that the command that made it
was killed, and removes what is left of it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from adapter_export.errors import InputError, OutputBusy
from adapter_export.outputs import lock
from adapter_export.outputs.ownership import MANIFEST, SIDECAR, listed
from adapter_export.outputs.record import Record, read_record, record_of, write_record
from adapter_export.outputs.signals import deferred

_log = logging.getLogger(__name__)

INSIDE = ".adapter-export"
_LOCK, _RECORD, _NEW, _OLD = "lock", "record.json", "new", "old"
_ADAPTER = re.compile(r"adapters/[^/]+\.onnx_adapter")
# Seconds between two looks at a lock that another process has.
_PAUSE = 0.1
# Bytes of a name that leave room for what is put around it; file systems allow 255.
_MAX_NAME_BYTES = 200
# A finishing command may remove the folder between two steps of the next one, which then begins again.
_ATTEMPTS = 100


@dataclass
class Workspace:
    """A workspace whose lock this command has. target: the output, an absolute path. descriptor: of the lock, None
    where the file system has no locks."""

    path: Path
    target: Path
    descriptor: int | None
    record: Record

    @property
    def new(self) -> Path:
        """Folder for what is to become the output."""
        return self.path / _NEW

    @property
    def old(self) -> Path:
        """Where the folder that was there before goes while it is replaced."""
        return self.path / _OLD

    def note_placed(self, names: Iterable[str]) -> None:
        """Record that these files of the output, by their paths there, are about to come or go."""
        self._note(replace(self.record, placed=tuple(dict.fromkeys([*self.record.placed, *names]))))

    def note_scratch(self, is_scratch: bool) -> None:
        """Record whether the folder `scratch_of(target)` is of no use any more if this command is killed now."""
        if is_scratch != self.record.scratch:
            self._note(replace(self.record, scratch=is_scratch))

    def withdraw(self) -> None:
        """Remove what came into the output and is not in its listing."""
        _remove_unlisted(self.target, self.record.placed)

    def _note(self, record: Record) -> None:
        write_record(self.path / _RECORD, record)
        self.record = record


@contextmanager
def workspace(target: Path, *, inside: bool = False, wait: float = 0.0) -> Iterator[Workspace]:
    """The workspace of the output `target`, an absolute path. It is removed at the end of the block, and so are parents
    of the output that were made for it and are empty.

    inside: whether it lies in `target`, which is then there. wait: seconds to wait for another command.
    Raises OutputBusy while another command has it, InputError where something else is in its place, and OSError where
    nothing can be written.
    """
    path = target / INSIDE if inside else beside(target)
    until = time.monotonic() + wait
    own: Workspace | None = None
    told = False
    try:
        while True:
            with deferred():
                own = _enter(path, target, inside)
            if own is not None:
                break
            if time.monotonic() >= until:
                waited = f"; waited {wait:g} s for it" if wait else ""
                raise OutputBusy(f"{_holder(path, target)}{waited}")
            if not told:
                _log.warning("%s; waiting for it, %g s at most", _holder(path, target), wait)
                told = True
            time.sleep(_PAUSE)
        yield own
    finally:
        if own is not None:
            with deferred():
                _leave(own)


def look(target: Path, *, inside: bool = False) -> bool:
    """Whether a command that was killed has left something of its workspace, which the next one would remove.

    Nothing is written or locked. Raises OutputBusy while another command has it, and InputError where something else is
    in its place.
    """
    path = target / INSIDE if inside else beside(target)
    if not os.path.lexists(path):
        return False
    _check_ours(path, target)
    record = read_record(path / _RECORD, target)
    if record is not None and record.is_alive():
        raise OutputBusy(_holder(path, target))
    return True


def beside(target: Path) -> Path:
    """Where the workspace of an output lies that is beside it."""
    name = os.fsencode(target.name)
    short = target.name if len(name) <= _MAX_NAME_BYTES else hashlib.sha256(name).hexdigest()
    return target.with_name(f".{short}.adapter-export")


def scratch_of(target: Path) -> Path:
    """Where a command that takes long keeps what it needs to go on after a kill."""
    return target.with_name(f"{target.name}.partial")


def has_workspace(target: Path) -> bool:
    """Whether there is a workspace of the output now, of a command that runs or of one that was killed."""
    return os.path.lexists(beside(target)) or os.path.lexists(target / INSIDE)


def _holder(path: Path, target: Path) -> str:
    """Who has the workspace, in words."""
    record = read_record(path / _RECORD, target)
    return f"output {target}: another command is writing it{f' ({record})' if record else ''}"


def _enter(path: Path, target: Path, inside: bool) -> Workspace | None:
    """Make or take over the workspace; None while another command has it."""
    for attempt in range(_ATTEMPTS):
        made = () if inside else tuple(map(str, _make_parents(target.parent)))
        try:
            return _take(path, target, made)
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1 or (inside and not target.is_dir()):
                raise
        except BaseException:
            _remove_empty(made)
            raise
    return None


def _take(path: Path, target: Path, made: Sequence[str]) -> Workspace | None:
    try:
        path.mkdir()
        is_new = True
    except FileExistsError:
        is_new = False
        _check_ours(path, target)
    descriptor: int | None = None
    try:
        try:
            descriptor = lock.acquire(path / _LOCK)
            if descriptor is None:
                return None
        except lock.Unsupported:
            left = read_record(path / _RECORD, target)
            if not is_new and (left is None or left.is_alive()):
                return None
        # With the lock, nobody else changes it any more.
        if not is_new:
            _check_ours(path, target)
            made = (*made, *_clean_up(path, target))
        own = Workspace(path, target, descriptor, record_of(target, tuple(dict.fromkeys(made))))
        write_record(path / _RECORD, own.record)
    except BaseException:
        if is_new:
            shutil.rmtree(path, ignore_errors=True)
        if descriptor is not None:
            lock.release(descriptor)
        raise
    return own


def _check_ours(path: Path, target: Path) -> None:
    """Raise InputError for a folder that no command of ours made for this output."""
    problem = "a link or a file"
    if path.is_dir() and not path.is_symlink():
        # Before its record is written a workspace holds an empty lock alone.
        recorded = read_record(path / _RECORD, target) is not None
        known = {_LOCK, _RECORD, _NEW, _OLD} if recorded else {_LOCK} if _is_empty_file(path / _LOCK) else set()
        names = sorted(item.name for item in path.iterdir())
        foreign = [name for name in names if name not in known and not _is_unfinished(name)]
        if not foreign:
            return
        problem = foreign[0]
    raise InputError(
        f"{path}: expected what an earlier command on {target.name} left, found {problem}; this folder's name is "
        "reserved for such commands: move it away"
    )


def _is_empty_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == 0


def _is_unfinished(name: str) -> bool:
    """Whether it is a record that was being written."""
    return name.startswith(f".{_RECORD}.") and name.endswith(".tmp")


def _clean_up(path: Path, target: Path) -> tuple[str, ...]:
    """Remove what a killed command left, and say so; returns the parents of the output that it had made."""
    record = read_record(path / _RECORD, target)
    if record is None:
        return ()
    removed = "removed what it left"
    if (path / _OLD).exists() and not target.exists():
        # It was between two steps: the old output out of the way, the new one not there yet.
        (path / _OLD).rename(target)
        removed = "put back what was there before, and removed the rest of what it left"
    _remove_unlisted(target, record.placed)
    # A record inside a bundle may be a stranger's, and says nothing of what lies beside it.
    if record.scratch and path == beside(target):
        shutil.rmtree(scratch_of(target), ignore_errors=True)
    _empty(path)
    _log.warning("output %s: a command was killed while it wrote this (%s): %s", target, record, removed)
    return record.made


def _remove_unlisted(target: Path, names: Iterable[str]) -> None:
    """Remove files of the output that its listing does not name, and folders there that become empty by it."""
    root = target.resolve()
    kept = listed(target)
    if not kept and any(os.path.lexists(root / name) for name in (MANIFEST, SIDECAR)):
        # A listing that cannot be read says nothing about them.
        return
    for name in names:
        path = root / name
        if name in kept or not path.parent.resolve().is_relative_to(root):
            continue
        if kept and not _ADAPTER.fullmatch(name):
            # Of a bundle that is complete, adapters alone come and go: a record in it may be a stranger's.
            continue
        path.unlink(missing_ok=True)
        _remove_empty(map(str, path.parents[: len(path.relative_to(root).parts) - 1]))


def _leave(own: Workspace) -> None:
    if own.descriptor is not None and not lock.is_at(own.descriptor, own.path / _LOCK):
        # It went away with the output that it lay in; what is at its place now is another command's.
        lock.release(own.descriptor)
        return
    _empty(own.path)
    # Whoever waits for the lock finds that its file is gone, and begins anew.
    (own.path / _LOCK).unlink(missing_ok=True)
    with suppress(OSError):
        own.path.rmdir()
    if own.descriptor is not None:
        lock.release(own.descriptor)
    _remove_empty(own.record.made)


def _empty(path: Path) -> None:
    """Remove everything in a workspace but its lock; the record last."""
    for name in (_NEW, _OLD):
        shutil.rmtree(path / name, ignore_errors=True)
    for item in path.iterdir():
        if _is_unfinished(item.name):
            item.unlink(missing_ok=True)
    if not (path / _NEW).exists() and not (path / _OLD).exists():
        (path / _RECORD).unlink(missing_ok=True)


def _make_parents(folder: Path) -> list[Path]:
    """Create `folder`; return the folders that had to be made."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except BaseException:
        _remove_empty(map(str, missing))
        raise
    return missing


def _remove_empty(folders: Iterable[str]) -> None:
    """Remove these folders from the inside out, as far as they are empty."""
    for folder in sorted(set(folders), key=len, reverse=True):
        try:
            Path(folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return
