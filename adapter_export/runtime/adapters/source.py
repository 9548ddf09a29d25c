"""Reads the adapters of a bundle from disk. Adapters may be added to the bundle while it is open."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adapter_export.bundle.adapter_file import check_adapter
from adapter_export.bundle.foreign_files import read_outside_file
from adapter_export.bundle.manifest import Manifest, read_manifest
from adapter_export.errors import InputError
from adapter_export.naming import check_adapter_name
from adapter_export.runtime.adapters.file_cache import AdapterFileCache
from adapter_export.runtime.adapters.loaded import LoadedAdapter
from adapter_export.runtime.bundle_checks import graphs_of, stamp_of

# How often an adapter is read at most. `add` may replace its file between the reads of the manifest and of the file.
_ATTEMPTS = 3


class BundleAdapters:
    """Reads adapters from the files of a bundle and from other files, for many threads.

    Attributes:
        bundle: Folder of the bundle.
        manifest: Its manifest as it was last read.
    """

    def __init__(self, bundle: Path, expect_sha256: str | None = None) -> None:
        """Reads the manifest.

        Args:
            bundle: Folder of the bundle.
            expect_sha256: Expected hex digest of the manifest, now and whenever it is read again; None for any.

        Raises:
            InputError: The manifest is missing, broken or not the expected one.
        """
        self.bundle, self._expected = bundle, expect_sha256
        self._stamp = stamp_of(bundle)
        self.manifest = read_manifest(bundle, expect_sha256=expect_sha256)
        self._files = AdapterFileCache()

    def verify(self) -> None:
        """Checks the files of all adapters now, so that reading them later is fast.

        Errors are not raised here but when the adapter is read.
        """
        for info in self.manifest.adapters:
            with contextlib.suppress(InputError):
                self._files.read(self.bundle, info, self.manifest)

    def read(self, name: str) -> LoadedAdapter:
        """Returns an adapter of the bundle.

        Raises:
            InputError: The adapter is unknown, or its file is not the one that the manifest lists.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            manifest = self._with(name)
            info = manifest.adapter(name)
            try:
                return LoadedAdapter(name, self._files.read(self.bundle, info, manifest), info.labels)
            except InputError:
                # If the manifest has another entry now, `add` replaced the adapter between the two reads.
                if attempt == _ATTEMPTS or self._with(name).adapter(name) == info:
                    raise
        raise AssertionError("unreachable")

    def read_foreign(self, name: str, path: Path) -> LoadedAdapter:
        """Returns the adapter of a file from outside of the bundle.

        Such a file contains no class names. Its classes get the placeholders of transformers (`LABEL_0`, ...).

        Args:
            name: Name for the adapter; not that of an adapter of the bundle.
            path: The `.onnx_adapter` file, see `foreign_files.read_outside_file`.

        Raises:
            InputError: The name is not allowed, or the file does not fit the graph.
        """
        check_adapter_name(name)
        if any(info.name == name for info in self.manifest.adapters):
            raise InputError(f"adapter {name!r}: the bundle has one of that name; load the file under another")
        tensors = read_outside_file(path, self.manifest)
        check_adapter(str(path), tensors, self.manifest)
        return LoadedAdapter(name, tensors, self._placeholders(tensors))

    def reread(self) -> Manifest:
        """Reads the manifest again if it has changed, and returns it.

        Raises:
            InputError: The manifest is missing, or describes another graph than when the bundle was opened.
        """
        stamp = stamp_of(self.bundle)
        manifest = self.manifest if stamp == self._stamp else read_manifest(self.bundle, expect_sha256=self._expected)
        if graphs_of(manifest) != graphs_of(self.manifest):
            raise InputError(f"bundle {self.bundle}: holds another graph than when it was opened; open it again")
        self.manifest, self._stamp = manifest, stamp
        return manifest

    def _with(self, name: str) -> Manifest:
        """Returns the manifest as it is now. Raises InputError if it does not list the adapter."""
        manifest = self.reread()
        if all(info.name != name for info in manifest.adapters):
            known = ", ".join(info.name for info in manifest.adapters)
            raise InputError(f"adapter {name!r}: expected one of {known or 'none'}")
        return manifest

    def _placeholders(self, tensors: Mapping[str, np.ndarray]) -> tuple[str, ...] | None:
        """Returns placeholders for the class names of an adapter's head; None without a head."""
        heads = self.manifest.heads
        weights = [
            tensors[name] for site in heads for name in site.tensors if name in tensors and tensors[name].ndim > 1
        ]
        return tuple(f"LABEL_{i}" for i in range(len(weights[-1]))) if weights else None
