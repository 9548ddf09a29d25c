"""Finds the files of a finished model: one graph, or those of an encoder and a decoder."""

from __future__ import annotations

from pathlib import Path

from adapter_export.bundle.graphs import DECODER, ENCODER
from adapter_export.errors import InputError
from adapter_export.reading.folders import existing_folder

# optimum's names. The decoder's first graph has no cache, and also computes the keys and values of cross-attention. The
# third file is a decoder with a cache, and the last one has both decoders in one graph.
_WITH_PAST, _MERGED = "decoder_with_past_model.onnx", "decoder_model_merged.onnx"
_PARTS = (ENCODER.value, DECODER.value, _WITH_PAST)


def graph_files(path: Path) -> tuple[Path, ...]:
    """Returns the file of the only graph; or those of the encoder, the decoder and, if any, the decoder with a cache.

    Args:
        path: The file of the graph, or a folder.

    Raises:
        InputError: There is no graph, or it is not clear which.
    """
    if path.suffix == ".onnx":
        existing_folder(path.parent, "graph")
        if path.name in (*_PARTS, _MERGED):
            raise InputError(f"{path}: has only a part of an encoder-decoder; expected its folder {path.parent}")
        return (path,)
    folder = existing_folder(path, "graph")
    found = sorted(file.name for file in folder.glob("*.onnx"))
    if len(found) == 1 and found[0] not in _PARTS:
        return (folder / found[0],)
    if ENCODER in found and set(found) <= {*_PARTS, _MERGED}:
        if DECODER not in found:
            raise InputError(f"graph {folder}: expected {DECODER} beside {ENCODER}, found {', '.join(found)}")
        # The merged graph holds nothing that the others do not.
        return tuple(folder / name for name in _PARTS if name in found)
    raise InputError(
        f"graph {folder}: expected one file *.onnx, or {' and '.join(_PARTS[:2])}, found {', '.join(found) or 'none'}; "
        "name the file itself"
    )
