"""`adapter-export inspect`: describes what a path holds. The kind is recognised by the content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from adapter_export.bundle.manifest import ADAPTER_SUFFIX
from adapter_export.errors import InputError
from adapter_export.inspection.bundles import describe_bundle
from adapter_export.inspection.folders import ADAPTER_CONFIG, MODEL_CONFIG, describe_adapter, describe_model
from adapter_export.inspection.onnx_files import describe_adapter_file, describe_onnx
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.reading.files import present

_FOLDERS = {MANIFEST: describe_bundle, ADAPTER_CONFIG: describe_adapter, MODEL_CONFIG: describe_model}
_FILES = {ADAPTER_SUFFIX: describe_adapter_file, ".onnx": describe_onnx}


def describe(path: str | Path) -> dict[str, Any]:
    """Describes what a path holds. No model is loaded, and torch is not imported.

    Args:
        path: A folder or a file.

    Returns:
        Plain values. `kind` says what the path holds.

    Raises:
        InputError: The path holds nothing that is known here, or something broken.
    """
    target = Path(path)
    if target.is_dir():
        for name, reader in _FOLDERS.items():
            if present(target / name):
                return {"path": target, **reader(target)}
        raise InputError(f"{target}: expected a folder with {', '.join(_FOLDERS)}; it has none of them")
    if not present(target):
        raise InputError(f"{target}: no such file or folder")
    if target.suffix not in _FILES:
        raise InputError(f"{target}: expected a folder, or a file ending in {' or '.join(_FILES)}")
    # The user named this file, so it may be a link to anywhere.
    return {"path": target, **_FILES[target.suffix](Path(os.path.realpath(target)))}
