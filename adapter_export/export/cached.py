"""Decoding with a key-value cache: what to trace with, and the cache's public names.

One graph serves prefill (an empty cache) and every later step, of one token or several.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from adapter_export.basemodel import BaseModel
from adapter_export.errors import InputError
from adapter_export.export.samples import Sample, max_sequence

if TYPE_CHECKING:
    import onnx_ir as ir

# Sizes of the example: no axis of size 1, which a trace would bake in, and no two alike.
_BATCH, _PAST, _SEQUENCE = 3, 5, 4
_MAX_BATCH = 1 << 16
# Of masks and grown caches: whatever was before, and what is new.
TOTAL = "past_sequence + sequence"

_KINDS = ("key", "value")
# The exporter's names of a cache's tensors, before and after the run.
_TRACED = re.compile(r"(?P<side>input\.|output\.)?past_key_values\.layers\.(?P<layer>\d+)\.(?P<kind>key|value)s")


def cached_sample(base: BaseModel) -> Sample:
    """An example step of decoding: input_ids, attention_mask over past and new tokens, position_ids where the model
    takes them, and the cache of the past.

    One row is padded on the left, as batches of prompts are. The cache keeps whole sequences also where the model
    attends to a sliding window only: the mask does that. Raises InputError for a model without such a cache.
    """
    import torch
    from transformers import DynamicCache

    parameters = inspect.signature(base.module.forward).parameters
    if not {"input_ids", "past_key_values"} <= set(parameters):
        raise InputError(
            f"model {base.folder}: {base.info.architecture} has no key-value cache; --no-cache exports a scoring graph"
        )
    config = base.module.config.get_text_config()
    generator = torch.Generator().manual_seed(0)
    total = _PAST + _SEQUENCE
    ids = torch.randint(2, max(3, min(100, config.vocab_size)), (_BATCH, total), generator=generator)
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
        base.module(**step(0, _PAST), past_key_values=cache, use_cache=True)
    if not cache.layers or any(getattr(layer, "keys", None) is None for layer in cache.layers):
        raise InputError(
            f"model {base.folder}: {base.info.architecture} keeps something else than keys and values between steps; "
            "--no-cache exports a scoring graph"
        )
    inputs: dict[str, Any] = {**step(_PAST, total), "past_key_values": cache}
    new = {0: "batch", 1: "sequence"}
    axes: dict[str, Any] = dict.fromkeys(inputs, new)
    axes["attention_mask"] = {0: "batch", 1: TOTAL}
    axes["past_key_values"] = [{0: "batch", 2: "past_sequence"}] * (2 * len(cache.layers))
    longest = max_sequence(config)
    return Sample(inputs, axes, {"batch": _MAX_BATCH, "sequence": longest, "past_sequence": longest})


def name_cache(model: ir.Model) -> None:
    """Give a traced cache the names the ecosystem knows: `past_key_values.N.key` in, `present.N.key` out.

    Ensures: the graph's inputs are what is not the cache, then the cache.
    """
    graph = model.graph
    for values, prefix in ((graph.inputs, "past_key_values"), (graph.outputs, "present")):
        for value in values:
            if (match := _TRACED.fullmatch(value.name or "")) is not None:
                value.name = cache_name(prefix, int(match["layer"]), _KINDS.index(match["kind"]))
    ordered = sorted(graph.inputs, key=lambda value: is_cache(value.name or ""))
    graph.inputs[:] = ordered


def cache_name(prefix: str, layer: int, kind: int) -> str:
    """The public name of a layer's keys (kind 0) or values (1); prefix: `past_key_values` or `present`."""
    return f"{prefix}.{layer}.{_KINDS[kind]}"


def is_cache(name: str) -> bool:
    """Whether a graph's input of this public name is part of a cache."""
    return name.startswith("past_key_values.")
