"""The package in a checkout that is not installed: what else says its version."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_VERSION = re.compile(r'^version = "(?P<version>[^"]+)"$', re.MULTILINE)


def write_metadata(folder: Path) -> None:
    """Writes what an installation has beside the package: its name and its version, for `importlib.metadata`.

    Args:
        folder: A folder of Python's path.
    """
    found = _VERSION.search((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert found is not None
    info = folder / f"adapter_export-{found['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: adapter-export\nVersion: {found['version']}\n")
