"""The graphs of a bundle and the names of their inputs and outputs.

The inputs of a cache are `past_key_values.N.key` and `.value`, its outputs `present.N.key` and `.value`. Runtimes for
language models know these names. In an encoder-decoder, `decoder.` (self-attention) or `encoder.` (cross-attention)
precedes `key` and `value`.
"""

from __future__ import annotations

from adapter_export.choices import Choice

# Which adapter each row has, int64 [batch]; an input of graphs of mode bank.
ADAPTER_IDS = "adapter_ids"
# For how many of the last tokens of each row a run computes logits, int64 [1]; 0, the default, for all. An overridable
# initializer of decoders with a cache. transformers has an argument of this name and meaning.
LOGITS_TO_KEEP = "logits_to_keep"
# The named axis of the tokens that get logits.
KEPT_SEQUENCE = "kept_sequence"
# The named axis of the outputs of a task head, if adapters may have heads of different sizes.
NUM_LABELS = "num_labels"
PAST, PRESENT = "past_key_values.", "present."


class GraphRole(Choice):
    """What a graph of a bundle is for. The value is the name of its file.

    MODEL    the complete model; the only graph of its bundle.
    ENCODER  the encoder of an encoder-decoder that generates.
    DECODER  its decoder, with a cache.
    """

    MODEL = "model.onnx"
    ENCODER = "encoder_model.onnx"
    DECODER = "decoder_model.onnx"


MODEL, ENCODER, DECODER = GraphRole.MODEL, GraphRole.ENCODER, GraphRole.DECODER


def is_past(name: str) -> bool:
    """Whether an input of this name is part of a cache."""
    return name.startswith(PAST)


def is_cache(name: str) -> bool:
    """Whether an input or an output of this name is part of a cache."""
    return name.startswith((PAST, PRESENT))


def past_of(present: str) -> str:
    """Returns the name of the input that takes, in the next run, the output `present` of this run."""
    return PAST + present.removeprefix(PRESENT)


def present_of(past: str) -> str:
    """Returns the name of the output with the grown cache of the input `past`."""
    return PRESENT + past.removeprefix(PAST)


def past_name(layer: int, tensor: str, side: str = "") -> str:
    """Returns the name of the input with a layer's keys or values.

    Args:
        layer: Number of the layer.
        tensor: `key` or `value`.
        side: In an encoder-decoder `decoder.` (self-attention) or `encoder.` (cross-attention).
    """
    return f"{PAST}{layer}.{side}{tensor}"
