"""Finds the adapter that a request is for, before a replica reads the request."""

from __future__ import annotations

import contextlib
from pathlib import Path

from adapter_export.bundle.manifest import read_manifest
from adapter_export.errors import InputError
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.reading.json_text import NotJson, parse

# After which a path has the name of a model.
_BEFORE_NAME = ("/v2/models/", "/v2/repository/models/", "/v1/models/")
# Whose bodies have the name of a model.
_IN_BODY = frozenset({"/v1/completions", "/v1/chat/completions", "/v1/embeddings"})


def model_of(path: str, body: bytes) -> str | None:
    """Returns the name of the model that a request is for; None if it names none. The request may be wrong.

    Args:
        path: The path of the request.
        body: Its body.
    """
    for start in _BEFORE_NAME:
        if path.startswith(start):
            return path[len(start) :].partition("/")[0] or None
    if path not in _IN_BODY:
        return None
    try:
        content = parse(body.decode())
    except (NotJson, UnicodeDecodeError):
        return None
    name = content.get("model") if isinstance(content, dict) else None
    return name if isinstance(name, str) else None


class Adapters:
    """The adapters of a bundle, to which some may be added while it is served."""

    def __init__(self, bundle: Path) -> None:
        """Reads the names.

        Args:
            bundle: Folder of the bundle.

        Raises:
            InputError: It is no bundle.
        """
        self._bundle = bundle
        self._seen: tuple[int, int] | None = None
        self._names: frozenset[str] = frozenset()
        self._read()

    def __contains__(self, name: str) -> bool:
        """Returns whether the bundle has an adapter of this name, besides one that is a part of its graph."""
        # Without a manifest, replicas refuse the request if they cannot answer it.
        with contextlib.suppress(InputError, OSError):
            self._read()
        return name in self._names

    def _read(self) -> None:
        """Reads the names if the manifest has changed."""
        manifest = self._bundle / MANIFEST
        found = manifest.stat() if manifest.exists() else None
        seen = None if found is None else (found.st_mtime_ns, found.st_ino)
        if seen is None or seen != self._seen:
            self._names = frozenset(info.name for info in read_manifest(self._bundle).adapters)
            self._seen = seen
