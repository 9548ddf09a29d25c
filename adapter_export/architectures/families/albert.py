"""ALBERT. One group of layers is applied several times: a site acts in each application, with the same tensors."""

from __future__ import annotations

from collections.abc import Mapping

from adapter_export.architectures.adapterhub import HubRecord, HubStack
from adapter_export.architectures.families.bert import BERT_CLASSIFIERS, TASK
from adapter_export.architectures.record import Architecture, HeadRecord, Stack, Sublayer

_STACK = Stack(
    layer=r"encoder\.albert_layer_groups\.(\d+)\.albert_layers\.\d+",
    attention=Sublayer("attention.dense", "attention", norm="attention.LayerNorm"),
    feedforward=Sublayer("ffn_output", "ffn", norm="full_layer_layer_norm"),
    query=("attention.query",),
    key=("attention.key",),
    value=("attention.value",),
    attention_output=("attention.dense",),
    up=("ffn",),
    down=("ffn_output",),
    # The library's attention passes its two values to the adapter in the wrong order.
    hub=HubStack(attention="attention.attention_adapters", swapped=True),
)

RECORDS: Mapping[str, Architecture] = {
    "albert": Architecture(
        stacks=(_STACK,),
        prefix="albert",
        heads={TASK: HeadRecord(("classifier",))},
        pooler="pooler",
        hub=HubRecord(known=True, classifiers=BERT_CLASSIFIERS),
    ),
}
