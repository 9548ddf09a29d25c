"""Lengths of text at which a model begins to compute otherwise, by its config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Kinds of layers that attend to a part of the text, and the fields that say how far.
_WINDOWS = ("sliding_window", "local_attention", "window_size")
_LOCAL = frozenset({"sliding_attention", "local"})


def borders_of(config: Mapping[str, Any]) -> tuple[int, ...]:
    """In tokens, ascending: a sliding window, the chunks of chunked attention, and what rotary frequencies or
    temperatures of attention change at. A window counts only where layers have it. config: content of a config.json."""
    text = config.get("text_config")
    found = {*_found(config), *(_found(text) if isinstance(text, Mapping) else ())}
    return tuple(sorted(found))


def _found(config: Mapping[str, Any]) -> Iterator[int]:
    layers = config.get("layer_types") or config.get("attention_layers")
    local = bool(_LOCAL & set(layers)) if isinstance(layers, list) else config.get("use_sliding_window") is not False
    names = [*(_WINDOWS if local else ()), "floor_scale"]
    if isinstance(layers, list) and "chunked_attention" in layers:
        names.append("attention_chunk_size")
    yield from (config[name] for name in names if _length(config.get(name)))
    # Longformer has a window for each layer.
    windows = config.get("attention_window")
    yield from (window for window in windows if _length(window)) if isinstance(windows, list) else ()
    rope = config.get("rope_parameters")
    for part in (rope, *rope.values()) if isinstance(rope, Mapping) else ():
        if isinstance(part, Mapping) and _length(part.get("original_max_position_embeddings")):
            yield part["original_max_position_embeddings"]


def _length(value: Any) -> bool:
    return type(value) is int and value > 0
