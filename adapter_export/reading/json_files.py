"""Reads JSON files. What is wrong with a file is an InputError that names it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError
from adapter_export.reading.files import decoded, present, read_bytes
from adapter_export.reading.json_text import NotJson, parse

# Configurations are small. A larger file is no configuration, and is not read into memory.
_MAX_BYTES = 64 << 20


def read_json(path: Path, root: Path | None = None, expect_sha256: str | None = None) -> dict[str, Any]:
    """Reads a file with one JSON object.

    Args:
        path: The file.
        root: The folder that must hold the file; without it, the folder that `path` is in.
        expect_sha256: Hex digest that the bytes of the file must have.

    Raises:
        InputError: The file is missing or too large, has another digest, or holds no JSON object.
    """
    value = read_json_value(path, root, expect_sha256)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_json_value(path: Path, root: Path | None = None, expect_sha256: str | None = None) -> Any:
    """Reads a file with any JSON value. Arguments and errors are those of `read_json`."""
    data = read_bytes(path, _MAX_BYTES, root)
    if expect_sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != expect_sha256:
        raise InputError(f"{path}: expected the file with sha256 {expect_sha256}, found {found}")
    try:
        return parse(decoded(path, data))
    except NotJson as error:
        raise InputError(f"{path}: expected JSON, found: {error}") from None


def optional_json(path: Path) -> dict[str, Any]:
    """Reads a file with one JSON object. Returns an empty object where there is no such file."""
    return read_json(path) if present(path) else {}


def json_or_empty(path: Path, limit: int) -> dict[str, Any]:
    """Reads a JSON object that tells whether a folder is ours: a file of anybody else may have the name.

    Args:
        path: The file.
        limit: The largest size in bytes that is read.

    Returns:
        The object. It is empty, and nothing is raised, for a missing, linked, unreadable or larger file, and for one
        that holds no JSON object.
    """
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > limit:
            return {}
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
