"""Taking adapters out of a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from adapter_export.bundle.add import refuse_in_graph, replace_manifest
from adapter_export.bundle.manifest import ADAPTERS, Manifest, read_manifest
from adapter_export.errors import InputError
from adapter_export.outputs.lock import LOCK_TIMEOUT
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.outputs.signals import deferred, raise_if_received, work_is_done
from adapter_export.outputs.workspace import workspace
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.links import check_writable


def remove_adapter(bundle: str | Path, adapters: Iterable[str], *, lock_timeout: float = LOCK_TIMEOUT) -> Manifest:
    """Remove adapters from a bundle of mode swappable or bank: all of them, or none. Returns the new manifest.

    The manifest is replaced first and the files are deleted then, so that the bundle is whole at every moment. A
    session that has the bundle open keeps what it has loaded. The graph stays as it is: in a bank it still holds the
    tensors of adapters that it was exported with, which no name leads to any more.

    Args:
        bundle: The bundle's folder.
        adapters: Names of adapters in it.
        lock_timeout: Seconds to wait for another command that writes the bundle.

    Raises:
        InputError: A folder that is no bundle, a bundle of another mode, or a name that it does not have.
        OutputBusy: Another command takes longer than `lock_timeout`.
    """
    folder = existing_folder(bundle, "bundle")
    names = tuple(dict.fromkeys(adapters))
    if not names:
        raise InputError("expected at least one adapter to remove, found none")
    for place in (MANIFEST, ADAPTERS):
        check_writable(folder / place, folder)
    read_manifest(folder)
    with workspace(folder.resolve(), inside=True, wait=lock_timeout) as own:
        # Another command may have changed it meanwhile.
        before = read_manifest(folder)
        refuse_in_graph(folder, before)
        gone = [before.adapter(name) for name in names]
        after = replace(
            before,
            adapters=tuple(info for info in before.adapters if info not in gone),
            files={path: digest for path, digest in before.files.items() if path not in {info.file for info in gone}},
        )
        own.new.mkdir()
        raise_if_received()
        with deferred():
            # After a kill, too, what the manifest no longer names is deleted.
            own.note_placed({*before.files} - {*after.files})
            replace_manifest(own, after)
            work_is_done()
            own.withdraw()
        return after
