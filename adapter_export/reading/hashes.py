"""Hashes of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from adapter_export.reading.files import open_file

_CHUNK_BYTES = 1 << 20


def sha256(path: Path, root: Path | None = None) -> str:
    """Returns the hex digest of a file's bytes.

    Args:
        path: The file.
        root: The folder that must hold the file; without it, the folder that `path` is in.

    Raises:
        InputError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with open_file(path, root) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
