"""The stages of a model by task: each becomes one graph of the bundle."""

from __future__ import annotations

from adapter_export.bundle.graphs import DECODER, ENCODER, MODEL
from adapter_export.export.decoding import decoding
from adapter_export.export.encoder_decoder import cross_decoding, encoding
from adapter_export.export.samples import sample_for
from adapter_export.export.stage import Stage, StageOf
from adapter_export.models.base_model import BaseModel


def scoring(base: BaseModel) -> Stage:
    """Returns the stage of the complete model, which runs in one pass and without a cache."""
    return Stage(base.module, sample_for(base), cache=False)


def stages_for(task: str, cache: bool) -> dict[str, StageOf]:
    """Returns the stages for a task, by the file name of their graph.

    Args:
        task: Name of the task.
        cache: Whether the graphs of a model that generates have a key-value cache.
    """
    if cache and task == "causal-lm":
        return {MODEL: decoding}
    if cache and task == "seq2seq-lm":
        return {ENCODER: encoding, DECODER: cross_decoding}
    return {MODEL: scoring}
