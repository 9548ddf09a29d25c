"""The adapters of a bundle on disk, as it is now: others may be added to it while it is open."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adapter_export.bundle.adapter_file import HEAD_SLUG, check_adapter, read_adapter_file
from adapter_export.bundle.manifest import Manifest, read_manifest
from adapter_export.errors import InputError
from adapter_export.naming import check_adapter_name
from adapter_export.reading.links import folder_of
from adapter_export.runtime.opening import graphs_of, stamp_of
from adapter_export.runtime.store import LoadedAdapter
from adapter_export.runtime.verified import VerifiedFiles

# A bundle may be added to while it is read: its manifest is read again, this many times in all.
_ATTEMPTS = 3


class Shelf:
    """Reads adapters from the files of a bundle, and from others beside it. For many threads."""

    def __init__(self, bundle: Path, expect_sha256: str | None = None) -> None:
        """expect_sha256: of the manifest, now and whenever it is read again."""
        self.bundle, self._expected = bundle, expect_sha256
        self._stamp = stamp_of(bundle)
        self.manifest = read_manifest(bundle, expect_sha256=expect_sha256)
        self._files = VerifiedFiles()

    def verify(self) -> None:
        """Check every adapter's file now, so that reading it is fast later; what is wrong is raised when it is read."""
        for info in self.manifest.adapters:
            with contextlib.suppress(InputError):
                self._files.read(self.bundle, info, self.manifest)

    def read(self, name: str) -> LoadedAdapter:
        """An adapter of the bundle; raises InputError for an unknown one and for a file that is not the one listed."""
        for attempt in range(1, _ATTEMPTS + 1):
            manifest = self._with(name)
            info = manifest.adapter(name)
            try:
                return LoadedAdapter(name, self._files.read(self.bundle, info, manifest), info.labels)
            except InputError:
                # `add` replaced the adapter between the two reads, if the manifest says something else now.
                if attempt == _ATTEMPTS or self._with(name).adapter(name) == info:
                    raise
        raise AssertionError("unreachable")

    def read_foreign(self, name: str, path: Path) -> LoadedAdapter:
        """The adapter of any file, under a name of its own. A foreign file holds no names of labels: transformers'
        placeholders stand in for them. Raises InputError when it does not fit."""
        check_adapter_name(name)
        if any(info.name == name for info in self.manifest.adapters):
            raise InputError(f"adapter {name!r}: the bundle has one of that name; load the file under another")
        tensors = read_adapter_file(path, self.manifest.base.sha256, root=folder_of(path))
        check_adapter(str(path), tensors, self.manifest)
        return LoadedAdapter(name, tensors, self._placeholders(tensors))

    def reread(self) -> Manifest:
        """The bundle's manifest now. Raises InputError when it is gone, or of another graph than when it was opened."""
        stamp = stamp_of(self.bundle)
        manifest = self.manifest if stamp == self._stamp else read_manifest(self.bundle, expect_sha256=self._expected)
        if graphs_of(manifest) != graphs_of(self.manifest):
            raise InputError(f"bundle {self.bundle}: holds another graph than when it was opened; open it anew")
        self.manifest, self._stamp = manifest, stamp
        return manifest

    def _with(self, name: str) -> Manifest:
        """The manifest now; raises InputError when it has no such adapter."""
        manifest = self.reread()
        if all(info.name != name for info in manifest.adapters):
            known = ", ".join(info.name for info in manifest.adapters)
            raise InputError(f"adapter {name!r}: expected one of {known or 'none'}")
        return manifest

    def _placeholders(self, tensors: Mapping[str, np.ndarray]) -> tuple[str, ...] | None:
        heads = [site for site in self.manifest.sites if site.method == HEAD_SLUG]
        weights = [
            tensors[name] for site in heads for name in site.tensors if name in tensors and tensors[name].ndim > 1
        ]
        return tuple(f"LABEL_{i}" for i in range(len(weights[-1]))) if weights else None
