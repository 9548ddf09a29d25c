"""Finds the borders of a model in its config: lengths of text from which on it computes in another way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adapter_export.architectures.windows import is_length, windows_of


def borders_of(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the borders in tokens, ascending.

    These are a sliding window, the chunks of chunked attention, and the lengths at which rotary frequencies or
    temperatures of attention change. A window counts only if layers use it.

    Args:
        config: Contents of a config.json.
    """
    text = config.get("text_config")
    borders = {*_borders_in(config), *(_borders_in(text) if isinstance(text, Mapping) else ())}
    return tuple(sorted(borders))


def _borders_in(config: Mapping[str, Any]) -> Iterator[int]:
    yield from windows_of(config)
    layers = config.get("layer_types")
    chunked = isinstance(layers, list) and "chunked_attention" in layers
    names = ("floor_scale", *(("attention_chunk_size",) if chunked else ()))
    yield from (config[name] for name in names if is_length(config.get(name)))
    # Longformer has a window for each layer.
    windows = config.get("attention_window")
    yield from (window for window in windows if is_length(window)) if isinstance(windows, list) else ()
    rope = config.get("rope_parameters")
    for part in (rope, *rope.values()) if isinstance(rope, Mapping) else ():
        if isinstance(part, Mapping) and is_length(part.get("original_max_position_embeddings")):
            yield part["original_max_position_embeddings"]
