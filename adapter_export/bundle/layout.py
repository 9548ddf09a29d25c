"""Writing outputs whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError, OutputExists

# A folder is replaced (--force) only when it holds one of these, that is, when it is an output of ours: a mistyped
# path must not cost a home directory.
_MARKERS = ("manifest.json", "adapter_export.json", "adapter_config.json")


def check_output(path: str | Path, force: bool = False, inputs: Sequence[str | Path] = ()) -> Path:
    """Raise before any work is done if `path` cannot become an output folder; return it.

    Refused: a file; a folder that holds something (OutputExists; with `force`, only one that is no output of ours); a
    folder that is, or contains, one of `inputs`.
    """
    target = Path(path)
    resolved = target.resolve()
    for given in inputs:
        source = Path(given).resolve()
        if resolved == source or resolved in source.parents:
            raise InputError(f"output {target}: expected a folder apart from the input {given}")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"output {target}: expected a folder or nothing, found a file or a link")
    if target.is_dir() and any(target.iterdir()):
        if not force:
            raise OutputExists(f"output {target}: already holds something; choose another folder or pass --force")
        if not any((target / marker).exists() for marker in _MARKERS):
            raise OutputExists(
                f"output {target}: holds something this tool did not write; --force replaces its own outputs only"
            )
    return target


@contextmanager
def atomic_folder(path: str | Path, force: bool = False, inputs: Sequence[str | Path] = ()) -> Iterator[Path]:
    """A temporary sibling folder to fill, which becomes `path` at the end of the block.

    When the block raises, nothing of it stays and what was at `path` is untouched. Raises as `check_output`, and
    OSError for an output that cannot be written.
    """
    target = check_output(path, force, inputs).resolve()
    made = _make_parents(target.parent)
    temporary: Path | None = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        yield temporary
        mask = _umask()
        for item in (temporary, *temporary.rglob("*")):
            # Some writers make private files; an output has the permissions any new file has.
            item.chmod((0o777 if item.is_dir() else 0o666) & ~mask)
            sync(item)
        # Another process may have put something there meanwhile.
        check_output(path, force, inputs)
        _replace(temporary, target)
        sync(target.parent)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        # The safetensors writer has an error class of its own for a disk that is full or gone.
        if type(error).__name__ == "SafetensorError":
            raise OSError(f"output {target}: could not be written: {error}") from error
        raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all, in place of what was there."""
    atomic_file(path, (json.dumps(value, indent=2) + "\n").encode())


def atomic_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, in place of what was there. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Let one process at a time change the existing `folder`; the others wait. On Windows nobody waits."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(temporary: Path, target: Path) -> None:
    """Put `temporary` in the place of `target`; what was there stays until the new folder stands."""
    if not target.exists():
        temporary.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    try:
        target.rename(old / target.name)
    except BaseException:
        old.rmdir()
        raise
    try:
        temporary.rename(target)
    except BaseException:
        (old / target.name).rename(target)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def _make_parents(folder: Path) -> Path | None:
    """Create `folder`; return the outermost folder that had to be made, or None."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[-1] if missing else None


def _umask() -> int:
    # Reading the mask means setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Make a file or folder durable, where the system can do that for it."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
