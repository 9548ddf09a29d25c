"""Decides by the content of a folder whether it is an output of ours: it lists its files, and holds no others.

The listing of a bundle is in manifest.json; that of a trained adapter, a merged model or a model repository of Triton
is in adapter_export.json.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from adapter_export.reading.json_files import json_or_empty

MANIFEST = "manifest.json"
# The model card. A manifest that says `"card": true` does not list it, as it cannot change in one step with it.
CARD = "README.md"
SIDECAR = "adapter_export.json"
_MAX_BYTES = 64 << 20


def first_foreign(folder: Path, ignored: Collection[str] = ()) -> str | None:
    """Returns the path, below `folder`, of the first file that no listing of ours names; None if there is none.

    Args:
        folder: The folder.
        ignored: Names at the top of the folder that are not looked at.
    """
    known = listed(folder)
    found = (name for name in files_below(folder) if name.partition("/")[0] not in ignored)
    return next((name for name in found if name not in known), None)


def listed(folder: Path) -> frozenset[str]:
    """Returns the files that the listing in `folder` names, and the listing itself; empty without a listing of ours."""
    manifest = json_or_empty(folder / MANIFEST, _MAX_BYTES)
    files = manifest.get("files")
    if type(manifest.get("format_version")) is int and isinstance(files, dict) and files:
        return frozenset({MANIFEST, *([CARD] if manifest.get("card") is True else []), *files})
    files = json_or_empty(folder / SIDECAR, _MAX_BYTES).get("files")
    if isinstance(files, list) and files and all(isinstance(name, str) for name in files):
        return frozenset({SIDECAR, *files})
    return frozenset()


def listing(folder: Path) -> list[str]:
    """Returns the paths of all files below `folder` for a listing, without the listing itself."""
    return [name for name in files_below(folder) if name != SIDECAR]


def files_below(folder: Path) -> Iterator[str]:
    """Yields all paths below `folder` but folders, with forward slashes, in a stable order. Links are not followed."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from (f"{entry.name}/{name}" for name in files_below(Path(entry.path)))
        else:
            yield entry.name
