"""The hidden folder in which a command prepares what it writes. Only one command at a time can have it.

It lies beside the output (`.NAME.adapter-export`), or inside it (`.adapter-export`) where only the inside can be
written. It holds:

    lock          locked while the command runs; the system frees it when the process ends, even by SIGKILL
    record.json   which output it belongs to, and what the command has made and placed so far
    new           the files of the new output
    old           what the output held before, where the system cannot exchange two folders in one step

If such a folder has a record of this output and no lock on it, the command that made it was killed. The next command
removes what is left of it.
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
from adapter_export.outputs.record import OutputRecord, read_record, record_of, write_record
from adapter_export.outputs.signals import deferred

_log = logging.getLogger(__name__)

INSIDE = ".adapter-export"
_LOCK, _RECORD, _NEW, _OLD = "lock", "record.json", "new", "old"
# Files of adapters in a bundle, and license files that came with them.
_ADAPTER = re.compile(r"adapters/[^/]+\.onnx_adapter|licenses/adapters/[^/]+/[^/]+")
# Seconds between two tries to get a lock that another process has.
_PAUSE = 0.1
# The most bytes of an output's name within the name of its workspace; file systems allow 255 bytes for the latter.
_MAX_NAME_BYTES = 200
# A command that ends may remove the folder between two steps of the next command, which then tries again.
_ATTEMPTS = 100


@dataclass
class Workspace:
    """A workspace whose lock this command has.

    Attributes:
        path: The workspace.
        target: The output, an absolute path.
        descriptor: The descriptor of the lock; None if the file system has no locks.
        record: The record, as it was last written.
    """

    path: Path
    target: Path
    descriptor: int | None
    record: OutputRecord

    @property
    def new(self) -> Path:
        """The folder for the files of the new output."""
        return self.path / _NEW

    @property
    def old(self) -> Path:
        """The place of the old output while it is replaced."""
        return self.path / _OLD

    def note_placed(self, names: Iterable[str]) -> None:
        """Records that these files of the output, by their paths in it, are about to be added or removed."""
        self._note(replace(self.record, placed=tuple(dict.fromkeys([*self.record.placed, *names]))))

    def note_scratch(self, is_scratch: bool) -> None:
        """Records whether the folder `scratch_of(target)` would be of no use if this command were killed now."""
        if is_scratch != self.record.scratch:
            self._note(replace(self.record, scratch=is_scratch))

    def withdraw(self) -> None:
        """Removes files that were placed in the output and are not in its listing."""
        _remove_unlisted(self.target, self.record.placed)

    def _note(self, record: OutputRecord) -> None:
        write_record(self.path / _RECORD, record)
        self.record = record


@contextmanager
def workspace(target: Path, *, inside: bool = False, wait: float = 0.0) -> Iterator[Workspace]:
    """Yields the workspace of an output.

    When the `with` statement ends, the workspace is removed, and so are parents of the output that were made for it and
    are empty.

    Args:
        target: The output, an absolute path.
        inside: Whether the workspace lies in `target`, which must exist.
        wait: Seconds to wait for another command.

    Raises:
        OutputBusy: Another command has the workspace.
        InputError: Something else is at its place.
        OSError: It cannot be written.
    """
    path = target / INSIDE if inside else beside(target)
    until = time.monotonic() + wait
    own: Workspace | None = None
    logged = False
    try:
        while True:
            with deferred():
                own = _enter(path, target, inside)
            if own is not None:
                break
            if time.monotonic() >= until:
                waited = f"; waited {wait:g} s for it" if wait else ""
                raise OutputBusy(f"{_holder(path, target)}{waited}")
            if not logged:
                _log.warning("%s; waiting for it, %g s at most", _holder(path, target), wait)
                logged = True
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
    """Returns the path of a workspace beside its output."""
    name = os.fsencode(target.name)
    short = target.name if len(name) <= _MAX_NAME_BYTES else hashlib.sha256(name).hexdigest()
    return target.with_name(f".{short}.adapter-export")


def scratch_of(target: Path) -> Path:
    """Returns the folder in which a long command keeps what it needs to continue after a kill."""
    return target.with_name(f"{target.name}.partial")


def has_workspace(target: Path) -> bool:
    """Returns whether the output has a workspace now, of a running command or of a killed one."""
    return os.path.lexists(beside(target)) or os.path.lexists(target / INSIDE)


def _holder(path: Path, target: Path) -> str:
    """Describes which command has the workspace."""
    record = read_record(path / _RECORD, target)
    return f"output {target}: another command is writing it{f' ({record})' if record else ''}"


def _enter(path: Path, target: Path, inside: bool) -> Workspace | None:
    """Makes the workspace, or takes it over. Returns None while another command has it."""
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
        # With the lock held, no other command changes it.
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
    """Raises InputError for a folder that no command of ours made for this output."""
    problem = "a link or a file"
    if path.is_dir() and not path.is_symlink():
        # Before its record is written, a workspace holds an empty lock only.
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
    """Returns whether it is a record that was not written completely."""
    return name.startswith(f".{_RECORD}.") and name.endswith(".tmp")


def _clean_up(path: Path, target: Path) -> tuple[str, ...]:
    """Removes what a killed command left, and logs it. Returns the parents of the output that the command had made."""
    record = read_record(path / _RECORD, target)
    if record is None:
        return ()
    removed = "removed what it left"
    if (path / _OLD).exists() and not target.exists():
        # It was killed between two steps: the old output was moved away, and the new one not yet placed.
        (path / _OLD).rename(target)
        removed = "put back what was there before, and removed the rest of what it left"
    _remove_unlisted(target, record.placed)
    # A record inside a bundle may be a stranger's, so it must not remove anything beside the bundle.
    if record.scratch and path == beside(target):
        shutil.rmtree(scratch_of(target), ignore_errors=True)
    _empty(path)
    _log.warning("output %s: a command was killed while it wrote this (%s): %s", target, record, removed)
    return record.made


def _remove_unlisted(target: Path, names: Iterable[str]) -> None:
    """Removes files of the output that its listing does not name, and folders in it that become empty."""
    root = target.resolve()
    kept = listed(target)
    if not kept and any(os.path.lexists(root / name) for name in (MANIFEST, SIDECAR)):
        # A listing that cannot be read does not tell which files belong to the output.
        return
    for name in names:
        path = root / name
        if name in kept or not path.parent.resolve().is_relative_to(root):
            continue
        if kept and not _ADAPTER.fullmatch(name):
            # In a complete bundle, only adapters and their licenses are added and removed. Other files are kept, as the
            # record may be a stranger's.
            continue
        path.unlink(missing_ok=True)
        _remove_empty(map(str, path.parents[: len(path.relative_to(root).parts) - 1]))


def _leave(own: Workspace) -> None:
    if own.descriptor is not None and not lock.is_at(own.descriptor, own.path / _LOCK):
        # It was removed together with the output that it lay in. A workspace at its place now is another command's.
        lock.release(own.descriptor)
        return
    _empty(own.path)
    # A command that waits for the lock finds that its file is gone, and tries again.
    (own.path / _LOCK).unlink(missing_ok=True)
    with suppress(OSError):
        own.path.rmdir()
    if own.descriptor is not None:
        lock.release(own.descriptor)
    _remove_empty(own.record.made)


def _empty(path: Path) -> None:
    """Removes everything in a workspace but its lock. The record is removed last."""
    for name in (_NEW, _OLD):
        shutil.rmtree(path / name, ignore_errors=True)
    for item in path.iterdir():
        if _is_unfinished(item.name):
            item.unlink(missing_ok=True)
    if not (path / _NEW).exists() and not (path / _OLD).exists():
        (path / _RECORD).unlink(missing_ok=True)


def _make_parents(folder: Path) -> list[Path]:
    """Makes `folder`. Returns the folders that were made."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except BaseException:
        _remove_empty(map(str, missing))
        raise
    return missing


def _remove_empty(folders: Iterable[str]) -> None:
    """Removes those of the folders that are empty, from the inside out."""
    for folder in sorted(set(folders), key=len, reverse=True):
        try:
            Path(folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return
