"""DistilBERT."""

from __future__ import annotations

from collections.abc import Mapping

from adapter_export.architectures.adapterhub import HubClassifier, HubRecord
from adapter_export.architectures.record import Architecture, HeadRecord, Stack, Sublayer

_STACK = Stack(
    layer=r"transformer\.layer\.(\d+)",
    attention=Sublayer("attention.out_lin", "attention", norm="sa_layer_norm"),
    feedforward=Sublayer("ffn.lin2", "ffn", norm="output_layer_norm"),
    query=("attention.q_lin",),
    key=("attention.k_lin",),
    value=("attention.v_lin",),
    attention_output=("attention.out_lin",),
    up=("ffn.lin1",),
    down=("ffn.lin2",),
)
_HEAD = ("pre_classifier", "classifier")

RECORDS: Mapping[str, Architecture] = {
    "distilbert": Architecture(
        stacks=(_STACK,),
        prefix="distilbert",
        heads={"text-classification": HeadRecord(_HEAD)},
        hub=HubRecord(known=True, classifiers=(HubClassifier(_HEAD, "relu"),)),
    ),
}
