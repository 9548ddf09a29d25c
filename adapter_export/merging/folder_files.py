"""Chooses which files of a model folder are copied into the merged model's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from adapter_export.checkpoints.weights import ADAPTER_FILES, adapter_beside
from adapter_export.outputs.ownership import MANIFEST, SIDECAR
from adapter_export.reading.links import leads_out

# Other forms of the weights, and files that training left. In the copy they would hold the weights before the merge.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz", ".safetensors.index.json",
            ".bin.index.json")  # fmt: skip
# Forms of the whole model for other frameworks, which may lie in subfolders. Subfolders may also hold .bin and
# .safetensors files that belong to the model (sentence-transformers keeps its dense layers in such files).
_EXPORTS = (".onnx", ".onnx_data", ".onnx.data", ".gguf", ".ggml", ".h5", ".msgpack", ".ot", ".tflite")
_EXPORT_FOLDERS = ("onnx", "openvino", "coreml", "flax_model", "tf_model")
# A folder with one of these files is an output of this tool that lies inside the model's folder.
_OUTPUTS = (SIDECAR, MANIFEST)


def companions(folder: Path, replaced: frozenset[str]) -> tuple[list[str], list[str]]:
    """Lists which files are copied as they are, and which are left out.

    Left out are other forms of the weights, an adapter in the model's folder, links that lead out of the folder, and
    anything but regular files. Hidden files are in neither list.

    Args:
        folder: The model's folder.
        replaced: Names of files at the top of the folder that the copy gets in a new version.

    Returns:
        The files to copy and the files left out, as paths relative to the folder.
    """
    kept: list[str] = []
    left: list[str] = []
    beside = ADAPTER_FILES if adapter_beside(folder) else ()
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if name in replaced:
            continue
        endings = (*_EXPORTS, *(() if "/" in name else _WEIGHTS))
        fits = path.is_file() and not leads_out(path, folder) and not path.name.endswith(endings) and name not in beside
        (kept if fits else left).append(name)
    return kept, left


def _walk(folder: Path, top: bool = True) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if not entry.is_dir(follow_symlinks=False):
            # This includes links to folders, which are no regular files.
            yield path
        elif not (top and entry.name in _EXPORT_FOLDERS) and not any((path / name).exists() for name in _OUTPUTS):
            yield from _walk(path, top=False)
