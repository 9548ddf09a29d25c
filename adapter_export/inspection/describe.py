"""`adapter-export inspect`: describes what a path holds. The kind is recognised by the content."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from adapter_export.bundle.manifest import ADAPTER_SUFFIX
from adapter_export.errors import InputError
from adapter_export.inspection.bundles import describe_bundle
from adapter_export.inspection.descriptions import Description
from adapter_export.inspection.folders import ADAPTER_CONFIG, MODEL_CONFIG, describe_adapter, describe_model
from adapter_export.inspection.onnx_files import describe_adapter_file, describe_onnx
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.reading.files import present

_FOLDERS: dict[str, Callable[[Path], Description]] = {
    MANIFEST: describe_bundle,
    ADAPTER_CONFIG: describe_adapter,
    MODEL_CONFIG: describe_model,
}
_FILES: dict[str, Callable[[Path], Description]] = {ADAPTER_SUFFIX: describe_adapter_file, ".onnx": describe_onnx}


def inspect(path: str | Path) -> Description:
    """Describes what a path holds. No model is loaded, and torch is not imported.

    Args:
        path: A bundle, a model folder, the folder of an adapter checkpoint, an .onnx or an .onnx_adapter file.

    Returns:
        A BundleDescription, ModelDescription, AdapterDescription, OnnxDescription or AdapterFileDescription.

    Raises:
        InputError: The path holds nothing of these, or what it holds is broken.
    """
    target = Path(path)
    if target.is_dir():
        for name, reader in _FOLDERS.items():
            if present(target / name):
                return reader(target)
        raise InputError(f"{target}: expected a folder with {', '.join(_FOLDERS)}; it has none of them")
    if not present(target):
        raise InputError(f"{target}: no such file or folder")
    if target.suffix not in _FILES:
        raise InputError(f"{target}: expected a folder, or a file ending in {' or '.join(_FILES)}")
    # The user named this file, so it may be a link to anywhere.
    return replace(_FILES[target.suffix](Path(os.path.realpath(target))), path=target)
