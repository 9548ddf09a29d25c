"""Marks the attention of decoders in a trace, so that it can be fused with the cache afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adapter_export.errors import AdapterExportError
from adapter_export.export.markers import ATTENTION, emit

if TYPE_CHECKING:
    import torch
    from torch import nn

# The attention of transformers that is replaced inside of the block.
_SDPA = "sdpa"
_MASK_RANK = 4
# Its arguments with which it computes what the marker does not say.
_OTHERS = ("position_bias", "s_aux", "softcap", "cache", "output_attentions")


class CannotFuse(AdapterExportError):
    """The attention of a trace has another form than the fused operator."""


@contextmanager
def attention_marked(marked: bool) -> Iterator[None]:
    """Inside the block, attention with a mask for all heads is traced as one marker, see `passes.fuse_attention`.

    Args:
        marked: Whether there are markers at all.
    """
    if not marked:
        yield
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    original = ALL_ATTENTION_FUNCTIONS[_SDPA]

    def attention(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **settings: Any,
    ) -> Any:
        others = any(settings.get(name) not in (None, False) for name in _OTHERS)
        # The fused operator reads no later tokens, whatever the mask says.
        causal = settings.get("is_causal") is not False and getattr(module, "is_causal", False)
        if others or not causal or attention_mask is None or not _for_all_heads(attention_mask):
            return original(module, query, key, value, attention_mask, **settings)
        batch, heads, tokens, size = query.shape
        scale = settings.get("scaling") or size**-0.5
        attributes = {"num_heads": heads, "kv_num_heads": key.shape[1], "scale": float(scale)}
        shape = (batch, tokens, heads, value.shape[-1])
        return emit(ATTENTION, (query, key, value, attention_mask), attributes, query, shape), None

    ALL_ATTENTION_FUNCTIONS[_SDPA] = attention
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS[_SDPA] = original


def _for_all_heads(mask: torch.Tensor) -> bool:
    """Whether a mask is [batch, 1, tokens, all tokens]."""
    return mask.ndim == _MASK_RANK and mask.shape[1] == 1
