"""Whether a folder is an output of ours, by its content: it lists its files, and holds no others.

A bundle lists them in manifest.json, a trained adapter and a merged model in adapter_export.json.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from adapter_export.reading.json_files import json_or_empty

MANIFEST = "manifest.json"
SIDECAR = "adapter_export.json"
_MAX_BYTES = 64 << 20


def first_foreign(folder: Path, ignored: Collection[str] = ()) -> str | None:
    """Path below `folder` of the first file there that no listing of ours names; None where there is none.

    ignored: names at the top that do not count.
    """
    known = listed(folder)
    found = (name for name in files_below(folder) if name.partition("/")[0] not in ignored)
    return next((name for name in found if name not in known), None)


def listed(folder: Path) -> frozenset[str]:
    """The files that the listing in `folder` names, and itself; empty where there is no listing of ours."""
    manifest = json_or_empty(folder / MANIFEST, _MAX_BYTES)
    files = manifest.get("files")
    if type(manifest.get("format_version")) is int and isinstance(files, dict) and files:
        return frozenset({MANIFEST, *files})
    files = json_or_empty(folder / SIDECAR, _MAX_BYTES).get("files")
    if isinstance(files, list) and files and all(isinstance(name, str) for name in files):
        return frozenset({SIDECAR, *files})
    return frozenset()


def listing(folder: Path) -> list[str]:
    """Paths of all files below `folder`, for a listing: without itself."""
    return [name for name in files_below(folder) if name != SIDECAR]


def files_below(folder: Path) -> Iterator[str]:
    """Everything below `folder` that is no folder, with forward slashes, in a stable order. Links are not followed."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from (f"{entry.name}/{name}" for name in files_below(Path(entry.path)))
        else:
            yield entry.name
