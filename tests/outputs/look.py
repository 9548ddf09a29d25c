"""What a folder holds, so that a test can see whether anything was written in it."""

from __future__ import annotations

from pathlib import Path


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Of everything below a folder: inode, size, and when it was changed. A file that was made and removed again
    changes the time of its folder."""
    return {
        str(path): (status.st_ino, status.st_size, status.st_mtime_ns)
        for path in (folder, *sorted(folder.rglob("*")))
        for status in [path.lstat()]
    }
