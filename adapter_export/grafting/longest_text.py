"""Finds for how long a text a graph computes what the model does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapter_export.architectures.positions import longest_text_of
from adapter_export.architectures.windows import windows_of

if TYPE_CHECKING:
    import onnx_ir as ir

_log = logging.getLogger(__name__)


def longest_text_in(graph: ir.Graph, config: Mapping[str, Any]) -> int | None:
    """Returns the number of tokens; None without a limit.

    GenAI's builder leaves the sliding window of some models out, such as Mistral's. Their graphs compute the same as
    the model only up to the length of the window. A note says so.

    Args:
        graph: The graph.
        config: config.json of the model; empty without one.
    """
    longest = longest_text_of(config) if config else None
    nested = config.get("text_config")
    windows = windows_of(nested if isinstance(nested, dict) else config)
    sizes = [node.attributes.get("local_window_size") for node in graph if node.op_type == "GroupQueryAttention"]
    if not windows or not sizes or any(size is not None and size.as_int() > 0 for size in sizes):
        return longest
    _log.warning(
        "graph: its attention reads all tokens of a text, the model's the last %d; texts are limited to %d tokens",
        windows[0],
        windows[0],
    )
    return windows[0] if longest is None else min(longest, windows[0])
