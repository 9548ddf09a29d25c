"""Finds how long a text may be, by a model's config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from adapter_export.architectures.registry import facts

# The config fields with this number. In an encoder-decoder, the decoder's own comes first.
FIELDS = ("max_target_positions", "max_position_embeddings", "n_positions")


def longest_text(model_type: str, read: Callable[[str], Any]) -> int | None:
    """Returns for how many tokens the model has positions, without the rows of its table that are not positions.

    Args:
        model_type: The `model_type` of the model's config.
        read: Returns the field of the model's config with a name, or None.

    Returns:
        The number; None without a limit.
    """
    positions = facts(model_type).positions
    known = [limit for name in FIELDS if isinstance(limit := read(name), int) and not isinstance(limit, bool)]
    if positions.relative or not known:
        return None
    reserved = positions.reserved
    if positions.after_padding:
        padding = read("pad_token_id")
        reserved += 1 + (padding if isinstance(padding, int) else 0)
    return known[0] - reserved


def longest_text_of(config: Mapping[str, Any]) -> int | None:
    """Does the same as `longest_text`, for the content of a config.json. If the model has parts, its text part
    counts.
    """
    nested = config.get("text_config")
    texts = nested if isinstance(nested, dict) else config
    return longest_text(str(texts.get("model_type")), texts.get)
