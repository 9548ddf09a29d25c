"""Writes output folders as a whole or not at all. One command writes at a time, and only earlier outputs are
replaced.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from adapter_export.errors import InputError, OutputExists
from adapter_export.outputs.exchange import exchange
from adapter_export.outputs.files import sync
from adapter_export.outputs.ownership import MANIFEST, SIDECAR, first_foreign
from adapter_export.outputs.signals import deferred, raise_if_received, work_is_done
from adapter_export.outputs.workspace import INSIDE, Workspace, has_workspace, look, workspace

# The folder at the top of a new ext4 disk.
_OF_THE_DISK = "lost+found"
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Output:
    """An output that only this command may write now.

    Attributes:
        folder: An empty folder, to be filled with the output.
    """

    folder: Path
    _own: Workspace
    _force: bool
    _in_place: bool

    def commit(self) -> None:
        """Makes the content of `folder` the output. Raises as `output_folder` if another program has filled it
        meanwhile.

        An old folder and the new one are exchanged in one step, where the system can do that. A folder that cannot be
        replaced itself (a mount point) is filled in place, with its listing last.
        """
        _finish(self.folder)
        raise_if_received()
        with deferred():
            if self._in_place:
                _place(self._own)
            else:
                _put(self._own, self._force)
            work_is_done()

    def note_scratch(self, is_scratch: bool) -> None:
        """Records whether `OUTPUT.partial` would be of no use if this command were killed now."""
        self._own.note_scratch(is_scratch)


@contextmanager
def output_folder(path: str | Path, force: bool = False, inputs: Sequence[str | Path] = ()) -> Iterator[Output]:
    """Yields the output at `path`. Nothing of it is at its place before `commit`; without `commit`, nothing remains.

    Args:
        path: The folder.
        force: Whether to replace an earlier output.
        inputs: Paths that the output must neither be nor contain.

    Raises:
        InputError: The path is a file, a link or an input.
        OutputExists: The folder is not empty. With `force`: it has a file that no listing of ours names, or is a mount
            point.
        OutputBusy: Another command writes it.
        OSError: It cannot be written.
    """
    target = _checked_path(path, inputs)
    in_place = _only_from_within(target)
    if not has_workspace(target):
        # With a workspace, the content may be the remains of a killed command. That is known only under the lock.
        _check_content(target, force, in_place)
    with ExitStack() as held:
        own = held.enter_context(workspace(target, inside=in_place))
        if not in_place and target.is_dir() and any(target.iterdir()):
            # `add` locks the inside of a bundle.
            with suppress(PermissionError):
                held.enter_context(workspace(target, inside=True))
        _check_content(target, force, in_place)
        own.new.mkdir()
        yield Output(own.new, own, force, in_place)


def check_output(path: str | Path, force: bool = False, inputs: Sequence[str | Path] = ()) -> Path:
    """Raise what `output_folder` would raise now, by a look alone: nothing is written, made or locked.

    Returns an existing folder on the disk that the output would be on. After a command that was killed, the next one
    first removes what that left; so what the output then holds is not judged here.
    """
    target = _checked_path(path, inputs)
    in_place = _only_from_within(target)
    left = look(target, inside=in_place)
    if not in_place and target.is_dir() and any(target.iterdir()):
        left = look(target, inside=True) or left
    if not left:
        _check_content(target, force, in_place)
    if in_place:
        return target
    made = target
    while not os.path.lexists(made.parent):
        made = made.parent
    if not made.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target.parent))
    if not os.access(made.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(made))
    return made.parent


def require_space(folder: Path, size: int, output: str | Path | None = None) -> None:
    """Raise InputError where the disk of the existing `folder` has no room for `size` bytes. output: what the message
    names, if it is not `folder`."""
    free = shutil.disk_usage(folder).free
    if free < size:
        wanted, found = _megabytes(size), _megabytes(free)
        raise InputError(f"output {output or folder}: expected room for {wanted} MB on its disk, found {found} MB")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f}" if size >= 1e6 else f"{size / 1e6:.3f}"


def _checked_path(path: str | Path, inputs: Sequence[str | Path]) -> Path:
    """Returns the output's absolute path. Raises InputError if it can be no output, whatever is there."""
    target = Path(path)
    if "\0" in str(target):
        raise InputError(f"output {str(target)!r}: expected a path, found a NUL character in it")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"output {target}: expected a folder or nothing, found a file or a link")
    resolved = target.resolve()
    for given in inputs:
        source = Path(given).resolve()
        if resolved == source or resolved in source.parents:
            raise InputError(f"output {target}: expected a folder apart from the input {given}")
    return resolved


def _check_content(target: Path, force: bool, in_place: bool) -> None:
    """Raises if `target` holds something that may not be replaced."""
    if not target.is_dir():
        return
    ignored = {INSIDE, _OF_THE_DISK} if in_place else {INSIDE}
    names = sorted(path.name for path in target.iterdir() if path.name not in ignored)
    if not names:
        return
    if in_place:
        raise OutputExists(
            f"output {target}: holds {names[0]!r}, and can only be written from within (a mount point, or a folder of "
            "somebody else's), where nothing can be replaced at once; choose a folder below it"
        )
    if not force:
        raise OutputExists(f"output {target}: already holds something; choose another folder or pass --force")
    if (foreign := first_foreign(target, ignored)) is not None:
        raise OutputExists(
            f"output {target}: holds {foreign!r}, which this tool did not write: no {MANIFEST} or {SIDECAR} of its own "
            "lists it; --force replaces outputs of its own only"
        )


def _only_from_within(target: Path) -> bool:
    """Returns whether the folder is there and cannot be replaced: as a mount point, or as its parent cannot be
    written.
    """
    if not target.is_dir():
        return False
    return os.path.ismount(target) or str(target) in _mount_points() or not os.access(target.parent, os.W_OK | os.X_OK)


def _mount_points() -> set[str]:
    """Returns Linux's list of mount points, folders mounted from the same disk included; empty on other systems."""
    if sys.platform != "linux":
        return set()
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return set()
    # The fifth field, in which spaces and some other characters are octal numbers.
    fields = [line.split(" ")[4] for line in lines if line.count(" ") >= 4]
    return {name.encode("latin-1", "replace").decode("unicode_escape") if "\\" in name else name for name in fields}


def _finish(folder: Path) -> None:
    """Gives the new files the permissions that any new file has, as some writers make private files, and makes them
    durable.
    """
    mask = _umask()
    for item in (folder, *folder.rglob("*")):
        item.chmod((0o777 if item.is_dir() else 0o666) & ~mask)
        sync(item)


def _put(own: Workspace, force: bool) -> None:
    """Puts the new folder at its place, in exchange for the old one."""
    target = own.target
    if not target.is_dir():
        own.new.rename(target)
    elif exchange(own.new, target):
        # Another program may have put a file there until now. From here on none can.
        try:
            _check_content(own.new, force, in_place=False)
        except OutputExists as error:
            exchange(own.new, target)
            raise OutputExists(str(error).replace(str(own.new), str(target))) from None
    else:
        _check_content(target, force, in_place=False)
        target.rename(own.old)
        try:
            own.new.rename(target)
        except BaseException:
            own.old.rename(target)
            raise
    sync(target.parent)


def _place(own: Workspace) -> None:
    """Moves the new files into the output one by one, the listing last: without it, the folder is no output of ours."""
    names = [path.relative_to(own.new).as_posix() for path in own.new.rglob("*") if not path.is_dir()]
    names.sort(key=lambda name: (name == MANIFEST, name == SIDECAR, name))
    _check_content(own.target, force=False, in_place=True)
    own.note_placed(names)
    try:
        for name in names:
            (own.target / name).parent.mkdir(parents=True, exist_ok=True)
            (own.new / name).rename(own.target / name)
        sync(own.target)
    except BaseException:
        own.withdraw()
        raise


def _umask() -> int:
    # The mask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
