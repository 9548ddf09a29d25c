"""T5 and mT5. Positions are distances only; the feed-forward of newer models is gated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from adapter_export.architectures.adapterhub import HubClassifier, HubCross, HubRecord, HubStack
from adapter_export.architectures.record import Architecture, HeadRecord, Positions, Stack, Sublayer

_ENCODER = Stack(
    layer=r"encoder\.block\.(\d+)",
    attention=Sublayer("layer.0.SelfAttention.o", "layer.0"),
    feedforward=Sublayer("layer.1.DenseReluDense.wo", "layer.1"),
    query=("layer.0.SelfAttention.q",),
    key=("layer.0.SelfAttention.k",),
    value=("layer.0.SelfAttention.v",),
    attention_output=("layer.0.SelfAttention.o",),
    up=("layer.1.DenseReluDense.wi",),
    down=("layer.1.DenseReluDense.wo",),
    hub=HubStack("layer.0", "layer.1"),
)
_GATED_ENCODER = replace(_ENCODER, gate=("layer.1.DenseReluDense.wi_0",), up=("layer.1.DenseReluDense.wi_1",))
# There is no bottleneck after cross-attention. IA3 also scales its keys and values, as in the paper.
_DECODER = replace(
    _ENCODER,
    layer=r"decoder\.block\.(\d+)",
    feedforward=Sublayer("layer.2.DenseReluDense.wo", "layer.2"),
    query=("layer.0.SelfAttention.q", "layer.1.EncDecAttention.q"),
    key=("layer.0.SelfAttention.k", "layer.1.EncDecAttention.k"),
    value=("layer.0.SelfAttention.v", "layer.1.EncDecAttention.v"),
    attention_output=("layer.0.SelfAttention.o", "layer.1.EncDecAttention.o"),
    up=("layer.2.DenseReluDense.wi",),
    down=("layer.2.DenseReluDense.wo",),
    hub=HubStack("layer.0", "layer.2", HubCross("layer.1", "layer.1.EncDecAttention.o", "layer.1")),
)
_GATED_DECODER = replace(_DECODER, gate=("layer.2.DenseReluDense.wi_0",), up=("layer.2.DenseReluDense.wi_1",))
_HEAD = ("classification_head.dense", "classification_head.out_proj")
_T5 = Architecture(
    stacks=(_GATED_ENCODER, _ENCODER, _GATED_DECODER, _DECODER),
    prefix="transformer",
    heads={"text-classification": HeadRecord(_HEAD)},
    positions=Positions(relative=True),
    hub=HubRecord(known=True, classifiers=(HubClassifier(_HEAD, "tanh", pooled=None),), plain_writer=True),
)

RECORDS: Mapping[str, Architecture] = {
    "t5": _T5,
    "mt5": _T5,
    "umt5": Architecture(positions=Positions(relative=True)),
}
