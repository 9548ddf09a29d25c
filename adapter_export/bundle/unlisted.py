"""Finds files in a bundle's folder that its manifest does not list."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from adapter_export.bundle.manifest import Manifest
from adapter_export.outputs.ownership import CARD, MANIFEST, files_below
from adapter_export.outputs.workspace import INSIDE

# Files whose names begin so are ignored. Kubernetes keeps mounted files in hidden folders whose names begin with "..",
# and links to them. The other one is the workspace of `add`.
_NOT_OURS = ("..", INSIDE)


def unlisted(folder: Path, manifest: Manifest) -> list[str]:
    """Returns the paths of files that the manifest does not list, relative to `folder` and with forward slashes."""
    known = {MANIFEST, *([CARD] if manifest.card else []), *manifest.files}
    # A folder of the bundle may be a link. It is checked when its files are read.
    folders = {parent.as_posix() for name in known for parent in PurePosixPath(name).parents}
    return [name for name in files_below(folder) if name not in known | folders and not name.startswith(_NOT_OURS)]
