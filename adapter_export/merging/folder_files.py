"""Which files of a model folder come along into a copy of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from adapter_export.checkpoints.weights import ADAPTER_FILES, adapter_beside
from adapter_export.outputs.ownership import MANIFEST, SIDECAR
from adapter_export.reading.links import leads_out

# Other forms of the weights and what training left beside them: in the copy they would be the weights before the merge.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz", ".safetensors.index.json",
            ".bin.index.json")  # fmt: skip
# Forms of the whole model for other frameworks, in subfolders as well. Those may hold .bin and .safetensors files that
# belong to the model (sentence-transformers keeps its dense layers so).
_EXPORTS = (".onnx", ".onnx_data", ".onnx.data", ".gguf", ".ggml", ".h5", ".msgpack", ".ot", ".tflite")
_EXPORT_FOLDERS = ("onnx", "openvino", "coreml", "flax_model", "tf_model")
# A folder with one of these is an output of this tool that happens to lie inside the model's.
_OUTPUTS = (SIDECAR, MANIFEST)


def companions(folder: Path, replaced: frozenset[str]) -> tuple[list[str], list[str]]:
    """What comes along as it is, and what is left out, as paths below the folder; hidden files are neither.

    Left out: other forms of the weights, an adapter that lies beside them, links that lead out of the folder, anything
    but regular files. replaced: files at the top that the copy gets anew.
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
            # A link to a folder is given as what it is: no regular file.
            yield path
        elif not (top and entry.name in _EXPORT_FOLDERS) and not any((path / name).exists() for name in _OUTPUTS):
            yield from _walk(path, top=False)
