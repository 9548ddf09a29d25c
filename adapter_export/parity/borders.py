"""Finds the borders of a model in its config: lengths of text from which on it computes in another way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Layer types that attend to a part of the text only, and the config fields with the size of that part.
_WINDOW_FIELDS = ("sliding_window", "local_attention", "window_size")
_LOCAL_LAYER_TYPES = frozenset({"sliding_attention", "local"})


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
    layers = config.get("layer_types") or config.get("attention_layers")
    if isinstance(layers, list):
        has_window = bool(_LOCAL_LAYER_TYPES & set(layers))
    else:
        has_window = config.get("use_sliding_window") is not False
    names = [*(_WINDOW_FIELDS if has_window else ()), "floor_scale"]
    if isinstance(layers, list) and "chunked_attention" in layers:
        names.append("attention_chunk_size")
    yield from (config[name] for name in names if _is_length(config.get(name)))
    # Longformer has a window for each layer.
    windows = config.get("attention_window")
    yield from (window for window in windows if _is_length(window)) if isinstance(windows, list) else ()
    rope = config.get("rope_parameters")
    for part in (rope, *rope.values()) if isinstance(rope, Mapping) else ():
        if isinstance(part, Mapping) and _is_length(part.get("original_max_position_embeddings")):
            yield part["original_max_position_embeddings"]


def _is_length(value: Any) -> bool:
    return type(value) is int and value > 0
