"""What lies in a bundle's folder besides the files that its manifest lists."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from adapter_export.bundle.manifest import Manifest
from adapter_export.outputs.ownership import MANIFEST, files_below
from adapter_export.outputs.workspace import INSIDE

# Kubernetes keeps what it mounts in hidden folders of such names, and links to it. `add` works in the other one.
_NOT_OURS = ("..", INSIDE)


def unlisted(folder: Path, manifest: Manifest) -> list[str]:
    """Paths below `folder`, with forward slashes, of files that the manifest does not know."""
    known = {MANIFEST, *manifest.files}
    # A link in the place of a folder of ours, which is checked where its files are read.
    folders = {parent.as_posix() for name in known for parent in PurePosixPath(name).parents}
    return [name for name in files_below(folder) if name not in known | folders and not name.startswith(_NOT_OURS)]
