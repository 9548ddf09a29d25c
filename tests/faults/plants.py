"""Faults planted into the project, each of which the campaign must find: a campaign that cannot fail proves nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

# What a planted campaign runs of each part: enough to find the fault.
FEW = 12


def rename_without_exchange() -> None:
    """The old output is removed before the new one is moved to its place."""
    from adapter_export.outputs import folder as module

    def put(own: Any, force: bool) -> None:
        shutil.rmtree(own.target, ignore_errors=True)
        own.new.rename(own.target)

    module._put = put


def no_lock() -> None:
    """Everybody gets the lock."""
    from adapter_export.outputs import lock

    lock.acquire = lambda path: os.open(path, os.O_RDWR | os.O_CREAT)


def no_verification() -> None:
    """Nobody looks at a file's sha256."""
    from adapter_export.runtime import session
    from adapter_export.runtime.adapters import file_cache

    parse = file_cache.parse_adapter_file
    file_cache.parse_adapter_file = lambda path, data, base, sha256: parse(path, data, base)
    session.check_files = lambda bundle, manifest: None


PLANTS: Mapping[str, Callable[[], None]] = {
    plant.__name__.replace("_", "-"): plant for plant in (rename_without_exchange, no_lock, no_verification)
}
