"""What one graph is traced from: a part of the model that can be run on its own, and an example of its inputs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapter_export.basemodel import BaseModel
from adapter_export.bundle.manifest import DECODER, ENCODER, MODEL
from adapter_export.export.samples import Sample, sample_for

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

# The exporter's names of a cache's tensors, before and after the run.
_TRACED = re.compile(
    r"(?:input\.|output\.)?past_key_values(?:\.(?P<side>self|cross)_attention_cache)?"
    r"\.layers\.(?P<layer>\d+)\.(?P<kind>key|value)s"
)
_SIDES = {None: "", "self": "decoder.", "cross": "encoder."}


@dataclass(frozen=True)
class Stage:
    """module: runs the stage; the model itself, or a wrapper of it. sample: what to call it with; a cache among its
    inputs has a list of axes, one for each tensor. cache: the model's setting `use_cache` meanwhile.
    """

    module: nn.Module
    sample: Sample
    cache: bool


# Makes a stage of a loaded model.
StageOf = Callable[[BaseModel], Stage]


def scoring(base: BaseModel) -> Stage:
    """The whole model in one pass, without a cache."""
    return Stage(base.module, sample_for(base), cache=False)


def stages_for(task: str, cache: bool) -> dict[str, StageOf]:
    """The graphs of a bundle for a task, by file."""
    from adapter_export.export.cached import decoding
    from adapter_export.export.seq2seq import cross_decoding, encoding

    if cache and task == "causal-lm":
        return {MODEL: decoding}
    if cache and task == "seq2seq-lm":
        return {ENCODER: encoding, DECODER: cross_decoding}
    return {MODEL: scoring}


def cache_name(prefix: str, layer: int, kind: str, side: str = "") -> str:
    """The public name of a layer's `key` or `value`. prefix: `past_key_values` or `present`. side: of encoder-decoder
    models `decoder.` (self-attention) or `encoder.` (cross-attention)."""
    return f"{prefix}.{layer}.{side}{kind}"


def name_cache(model: ir.Model) -> None:
    """Give a traced cache the names the ecosystem knows: `past_key_values.N.key` in, `present.N.key` out.

    Ensures: the graph's inputs are what is not the cache, then the cache.
    """
    graph = model.graph
    for values, prefix in ((graph.inputs, "past_key_values"), (graph.outputs, "present")):
        for value in values:
            if (match := _TRACED.fullmatch(value.name or "")) is not None:
                value.name = cache_name(prefix, int(match["layer"]), match["kind"], _SIDES[match["side"]])
    graph.inputs[:] = sorted(graph.inputs, key=lambda value: is_cache(value.name or ""))


def is_cache(name: str) -> bool:
    """Whether a graph's input of this public name is part of a cache."""
    return name.startswith("past_key_values.")
