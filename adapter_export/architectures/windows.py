"""Finds to how many tokens a model's attention is limited, by its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Layer types that attend to a part of the text only, and the config fields with the size of that part.
_FIELDS = ("sliding_window", "local_attention", "window_size")
_LOCAL_LAYER_TYPES = frozenset({"sliding_attention", "local"})


def windows_of(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the numbers of tokens of its sliding windows, ascending; none if no layer has one.

    Args:
        config: Contents of a config.json, or of the part for texts.
    """
    layers = config.get("layer_types") or config.get("attention_layers")
    if isinstance(layers, list):
        used = bool(_LOCAL_LAYER_TYPES & set(layers))
    else:
        used = config.get("use_sliding_window") is not False
    found = {config[name] for name in _FIELDS if is_length(config.get(name))}
    return tuple(sorted(found)) if used else ()


def is_length(value: Any) -> bool:
    """Returns whether the value of a field is a number of tokens."""
    return type(value) is int and value > 0
