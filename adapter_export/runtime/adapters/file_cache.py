"""Adapter files of a bundle, checked once for as long as nobody touches them."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

import numpy as np

from adapter_export.bundle.adapter_file import MAX_ADAPTER_BYTES, check_adapter, parse_adapter_file
from adapter_export.bundle.adapter_format import AdapterContent
from adapter_export.bundle.manifest import AdapterInfo, Manifest
from adapter_export.errors import InputError
from adapter_export.reading.files import open_file

# Changes with every write and every replacement of a file: the kernel sets the last of them, no program can.
_Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Verified:
    """What was found in a file that passed. sha256: what it was checked against."""

    stamp: _Stamp
    sha256: str
    content: AdapterContent


class AdapterFileCache:
    """Reads adapters; what it has checked before costs no more than reading the bytes.

    Checking takes some 1.7 ms for 1.8 MB, most of it sha256; reading 0.2 ms. For many threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._verified: dict[Path, _Verified] = {}
        # Adapters of one kind differ in their numbers alone: where those lie in a file is kept once for all (5 kB).
        self._contents: WeakValueDictionary[Hashable, AdapterContent] = WeakValueDictionary()

    def read(self, bundle: Path, info: AdapterInfo, manifest: Manifest) -> dict[str, np.ndarray]:
        """The tensors of the bundle's adapter, by their names in the graph, read-only and owned by the caller.

        Raises InputError when the file is not the one the manifest lists, or not an adapter of its graph.
        """
        if info.file is None:
            raise InputError(f"bundle {bundle}: adapter {info.name!r} has no file")
        path = bundle / info.file
        stamp, data = _read(path, bundle)
        with self._lock:
            known = self._verified.get(path)
        if stamp is not None and known is not None and (known.stamp, known.sha256) == (stamp, info.sha256):
            return known.content.tensors(data)
        content = parse_adapter_file(path, data, manifest.base.sha256, info.sha256)
        tensors = content.tensors(data)
        check_adapter(f"bundle {bundle}: adapter {info.name}", tensors, manifest)
        if stamp is not None:
            alike = content.adapter_version, content.model_version, tuple(content.places.items())
            with self._lock:
                self._verified[path] = _Verified(stamp, info.sha256, self._contents.setdefault(alike, content))
        return tensors


def _read(path: Path, bundle: Path) -> tuple[_Stamp | None, bytes]:
    """The file's stamp and bytes; None for the stamp when somebody wrote to it meanwhile."""
    with open_file(path, bundle) as file:
        before = _stamp(file)
        if before[1] > MAX_ADAPTER_BYTES:
            raise InputError(f"{path}: expected a file of at most {MAX_ADAPTER_BYTES >> 30} GiB, found a larger one")
        data = file.read(before[1] + 1)
        return before if _stamp(file) == before else None, data


def _stamp(file: IO[bytes]) -> _Stamp:
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
