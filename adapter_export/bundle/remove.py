"""Removes adapters from a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from adapter_export.bundle.add import WRITTEN, may_have_card, refuse_in_graph, replace_manifest
from adapter_export.bundle.manifest import Manifest, read_manifest
from adapter_export.errors import InputError
from adapter_export.outputs.lock import LOCK_TIMEOUT
from adapter_export.outputs.signals import deferred, raise_if_received, work_is_done
from adapter_export.outputs.workspace import workspace
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.links import check_writable


def remove_adapter(bundle: str | Path, adapters: Iterable[str], *, lock_timeout: float = LOCK_TIMEOUT) -> Manifest:
    """Removes adapters from a bundle of mode swappable or bank: all of them, or none.

    The manifest is replaced before the files are deleted, so the bundle is complete at any time. A session that has the
    bundle open keeps the adapters that it has loaded. The graph does not change: in a bank, it still contains the
    tensors of the adapters that it was exported with, but they have no name any more.

    Args:
        bundle: Folder of the bundle.
        adapters: Names of the adapters to remove.
        lock_timeout: How long to wait for another command that writes to the bundle, in seconds.

    Returns:
        The new manifest.

    Raises:
        InputError: The folder is no bundle, the bundle is of another mode, or has no adapter of one of the names.
        OutputBusy: Another command holds the bundle for longer than `lock_timeout`.
    """
    folder = existing_folder(bundle, "bundle")
    names = tuple(dict.fromkeys(adapters))
    if not names:
        raise InputError("expected at least one adapter to remove, found none")
    for place in WRITTEN:
        check_writable(folder / place, folder)
    read_manifest(folder)
    with workspace(folder.resolve(), inside=True, wait=lock_timeout) as own:
        # Another command may have changed the bundle since.
        before = read_manifest(folder)
        refuse_in_graph(folder, before)
        gone = [before.adapter(name) for name in names]
        after = replace(
            before,
            adapters=tuple(info for info in before.adapters if info not in gone),
            files=before.without_files(*gone),
            card=may_have_card(folder, before),
        )
        own.new.mkdir()
        raise_if_received()
        with deferred():
            # If this process is killed, the next command deletes the files that the manifest does not list any more.
            own.note_placed({*before.files} - {*after.files})
            replace_manifest(own, after)
            work_is_done()
            own.withdraw()
        return after
