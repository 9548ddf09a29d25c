"""Copies what a runtime needs besides the graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adapter_export.bundle.graphs import MODEL
from adapter_export.grafting.foreign import CONFIG, GENAI_CONFIG
from adapter_export.reading.files import present, read_bytes
from adapter_export.reading.json_files import read_json

_MAX_BYTES = 64 << 20
_NAMES = (
    CONFIG,
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)


def copy_others(graph_folder: Path, model: Path | None, target: Path, graph: str, genai: bool) -> None:
    """Copies tokenizer and configs.

    Args:
        graph_folder: The folder of the graph.
        model: Folder of the base model, for files that the other folder lacks; None for none.
        target: The folder of the bundle.
        graph: The graph's old file name, which genai_config.json may contain.
        genai: Whether ONNX Runtime GenAI can run the bundle, so that it gets genai_config.json.
    """
    for name in _NAMES:
        for folder in (graph_folder, model):
            if folder is not None and present(folder / name):
                (target / name).write_bytes(read_bytes(folder / name, _MAX_BYTES, folder))
                break
    if genai and present(graph_folder / GENAI_CONFIG):
        changed = _changed(read_json(graph_folder / GENAI_CONFIG, graph_folder), graph)
        (target / GENAI_CONFIG).write_text(json.dumps(changed, indent=4) + "\n", encoding="utf-8")


def _changed(value: Any, graph: str) -> Any:
    """Returns the JSON value with the bundle's name of the graph, and without sizes of caches.

    GenAI would give layers with a sliding window a cache of that size. Those of a graft hold whole texts, see
    `foreign`.
    """
    if isinstance(value, dict):
        return {
            name: MODEL.value if name == "filename" and item == graph else _changed(item, graph)
            for name, item in value.items()
            if name != "sliding_window"
        }
    return value
