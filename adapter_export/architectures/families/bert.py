"""BERT, and the encoders with its layers: RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA, DeBERTa, MPNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from adapter_export.architectures.adapterhub import POOLER, HubClassifier, HubRecord, HubStack
from adapter_export.architectures.record import Architecture, HeadRecord, Positions, Stack, Sublayer

TASK = "text-classification"
BERT = Stack(
    layer=r"encoder\.layer\.(\d+)",
    attention=Sublayer("attention.output.dense", "attention", norm="attention.output.LayerNorm"),
    feedforward=Sublayer("output.dense", "intermediate", norm="output.LayerNorm"),
    query=("attention.self.query",),
    key=("attention.self.key",),
    value=("attention.self.value",),
    attention_output=("attention.output.dense",),
    up=("intermediate.dense",),
    down=("output.dense",),
    hub=HubStack(attention="attention.output", output="output"),
)
_DEBERTA2 = replace(
    BERT,
    query=("attention.self.query_proj",),
    key=("attention.self.key_proj",),
    value=("attention.self.value_proj",),
)
_MPNET = replace(
    BERT,
    attention=Sublayer("attention.attn.o", "attention", norm="attention.LayerNorm"),
    query=("attention.attn.q",),
    key=("attention.attn.k",),
    value=("attention.attn.v",),
    attention_output=("attention.attn.o",),
    hub=HubStack(),
)

# Pooler and classifier together compute the same as a head of two layers with tanh between them.
BERT_CLASSIFIERS = (HubClassifier(("classifier",), pooled=True), HubClassifier((POOLER, "classifier"), "tanh"))
_DENSE = ("classifier.dense", "classifier.out_proj")
_DENSE_HEADS = {TASK: HeadRecord(_DENSE)}
_DEBERTA_LAYERS = ("pooler.dense", "classifier")
_DEBERTA_HUB = (HubClassifier(_DEBERTA_LAYERS, "gelu"),)
# The rows up to that of the padding token are not positions.
_ROBERTA = Architecture(
    stacks=(BERT,),
    prefix="roberta",
    heads=_DENSE_HEADS,
    positions=Positions(after_padding=True),
    hub=HubRecord(known=True, classifiers=(HubClassifier(_DENSE, "tanh"),)),
)

RECORDS: Mapping[str, Architecture] = {
    "bert": Architecture(
        stacks=(BERT,),
        prefix="bert",
        heads={TASK: HeadRecord(("classifier",))},
        pooler="pooler.dense",
        hub=HubRecord(known=True, classifiers=BERT_CLASSIFIERS),
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": replace(_ROBERTA, stacks=(), hub=HubRecord()),
    "electra": Architecture(
        stacks=(BERT,),
        prefix="electra",
        heads=_DENSE_HEADS,
        hub=HubRecord(known=True, classifiers=(HubClassifier(_DENSE, "gelu"),)),
    ),
    "deberta": Architecture(
        prefix="deberta",
        heads={TASK: HeadRecord(_DEBERTA_LAYERS)},
        hub=HubRecord(classifiers=_DEBERTA_HUB),
    ),
    "deberta-v2": Architecture(
        stacks=(_DEBERTA2,),
        prefix="deberta",
        heads={TASK: HeadRecord(_DEBERTA_LAYERS)},
        hub=HubRecord(known=True, classifiers=_DEBERTA_HUB),
    ),
    # The padding row is 1, even if the config says otherwise.
    "mpnet": Architecture(
        stacks=(_MPNET,),
        prefix="mpnet",
        heads=_DENSE_HEADS,
        positions=Positions(reserved=2),
    ),
}
