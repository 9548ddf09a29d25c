"""The stage of a decoder with a key-value cache.

One graph runs the prefill, with an empty cache, and every later step, of one token or several.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from adapter_export.architectures.registry import facts
from adapter_export.basemodel import BaseModel
from adapter_export.errors import InputError
from adapter_export.export.samples import Sample, max_sequence
from adapter_export.export.stage import Stage

if TYPE_CHECKING:
    import torch

# Sizes of the example inputs. All are different, and none is 1, which a trace would make constant.
_BATCH, _PAST, _SEQUENCE = 3, 5, 4
_MAX_BATCH = 1 << 16
# The axis of masks and of grown caches: past and new tokens.
TOTAL = "past_sequence + sequence"


def decoding(base: BaseModel) -> Stage:
    """Returns the stage of one step of a decoder.

    Inputs: input_ids, attention_mask over past and new tokens, position_ids if the model takes them, and the cache of
    the past tokens. Outputs: logits and the grown cache.

    One row of the example is padded on the left, like batches of prompts. The cache keeps complete sequences, also if
    the model attends only to a sliding window; the mask limits the window.

    Args:
        base: The base model.

    Raises:
        InputError: The model has no cache of keys and values.
    """
    import torch
    from transformers import DynamicCache

    parameters = inspect.signature(base.module.forward).parameters
    if not {"input_ids", "past_key_values"} <= set(parameters):
        raise InputError(
            f"model {base.folder}: {base.info.architecture} has no key-value cache; --no-cache exports a scoring graph"
        )
    config = base.module.config.get_text_config()
    total = _PAST + _SEQUENCE
    ids = example_ids(config.vocab_size, total)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)

    def step(start: int, end: int) -> dict[str, torch.Tensor]:
        values = {
            "input_ids": ids[:, start:end],
            "attention_mask": mask[:, :end],
            "position_ids": positions[:, start:end],
        }
        return {name: value for name, value in values.items() if name in parameters}

    cache = DynamicCache()
    with torch.no_grad():
        # Fills the cache of the example.
        base.module(**step(0, _PAST), past_key_values=cache, use_cache=True)
    if not cache.layers or any(getattr(layer, "keys", None) is None for layer in cache.layers):
        raise InputError(
            f"model {base.folder}: {base.info.architecture} has a cache of other tensors than keys and values; "
            "--no-cache exports a scoring graph"
        )
    inputs: dict[str, Any] = {**step(_PAST, total), "past_key_values": cache}
    new = {0: "batch", 1: "sequence"}
    axes: dict[str, Any] = dict.fromkeys(inputs, new)
    axes["attention_mask"] = {0: "batch", 1: TOTAL}
    axes["past_key_values"] = [{0: "batch", 2: "past_sequence"}] * (2 * len(cache.layers))
    longest = max_sequence(config)
    if facts(base.info.model_type).positions.mask_table:
        # The trace must know that past and new tokens together do not exceed the table.
        longest = longest // 2
    limits = {"batch": _MAX_BATCH, "sequence": longest, "past_sequence": longest}
    return Stage(base.module, Sample(inputs, axes, limits, least={"past_sequence": 0}), cache=True)


def example_ids(vocabulary: int, length: int) -> torch.Tensor:
    """Returns random token ids, int64 [batch, length].

    The first two ids are left out, because they are special tokens in most vocabularies.

    Args:
        vocabulary: Number of tokens of the model.
        length: Number of tokens per row.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(2, max(3, min(100, vocabulary)), (_BATCH, length), generator=generator)
