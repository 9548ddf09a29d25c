"""GPT-2 and models derived from it: GPT-Neo, GPT-J, GPT-NeoX, BLOOM, Falcon. The IA3 vectors of their fused projections
scale queries too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from adapter_export.architectures.adapterhub import HubClassifier, HubRecord, HubStack
from adapter_export.architectures.record import Architecture, HeadRecord, Positions, Stack, Sublayer

SCORE_HEADS = {"text-classification": HeadRecord(("score",), without_bias=("score",))}
SCORE_CLASSIFIERS = (HubClassifier(("score",), pooled=None, bias=False),)
_GPT2 = Stack(
    layer=r"h\.(\d+)",
    attention=Sublayer("attn.c_proj", "ln_1"),
    feedforward=Sublayer("mlp.c_proj", "ln_2"),
    fused="attn.c_attn",
    attention_output=("attn.c_proj",),
    up=("mlp.c_fc",),
    down=("mlp.c_proj",),
)
_GPT_NEO = replace(
    _GPT2,
    attention=Sublayer("attn.attention.out_proj", "ln_1"),
    fused="",
    query=("attn.attention.q_proj",),
    key=("attn.attention.k_proj",),
    value=("attn.attention.v_proj",),
    attention_output=("attn.attention.out_proj",),
)
# Attention and feed-forward in parallel (GPT-J, Phi, Falcon, and GPT-NeoX as published): both read the layer's input x,
# and the layer returns x plus both outputs, which is the z of Pfeiffer's adapter.
_GPTJ = Stack(
    layer=r"h\.(\d+)",
    attention=Sublayer("attn.out_proj", "ln_1"),
    feedforward=Sublayer("mlp.fc_out", "ln_1"),
    query=("attn.q_proj",),
    key=("attn.k_proj",),
    value=("attn.v_proj",),
    attention_output=("attn.out_proj",),
    up=("mlp.fc_in",),
    down=("mlp.fc_out",),
    # The x of the library's second adapter is the result of attention.
    hub=HubStack(no_x=True),
)
_GPT_NEOX = Stack(
    layer=r"layers\.(\d+)",
    attention=Sublayer("attention.dense", "input_layernorm"),
    feedforward=Sublayer("mlp.dense_4h_to_h", "post_attention_layernorm"),
    fused="attention.query_key_value",
    attention_output=("attention.dense",),
    up=("mlp.dense_h_to_4h",),
    down=("mlp.dense_4h_to_h",),
)
_BLOOM = replace(
    _GPT_NEOX,
    layer=r"h\.(\d+)",
    attention=Sublayer("self_attention.dense", "input_layernorm"),
    fused="self_attention.query_key_value",
    attention_output=("self_attention.dense",),
)
# Falcon has parallel sublayers with a norm each (40B) or with one norm (7B), or sublayers in sequence (RW).
_FALCON = (
    replace(
        _BLOOM,
        attention=Sublayer("self_attention.dense", "ln_attn"),
        feedforward=Sublayer("mlp.dense_4h_to_h", "ln_mlp"),
    ),
    _BLOOM,
    replace(_BLOOM, feedforward=Sublayer("mlp.dense_4h_to_h", "input_layernorm")),
)
_DECODER = Architecture(prefix="transformer", heads=SCORE_HEADS)
_HUB = HubRecord(known=True, classifiers=SCORE_CLASSIFIERS)

RECORDS: Mapping[str, Architecture] = {
    "gpt2": replace(_DECODER, stacks=(_GPT2,), transposed=True, hub=_HUB),
    "gpt_bigcode": _DECODER,
    "openai-gpt": replace(_DECODER, transposed=True),
    "imagegpt": Architecture(transposed=True),
    "decision_transformer": Architecture(transposed=True),
    "gpt_neo": replace(_DECODER, stacks=(_GPT_NEO,), positions=Positions(mask_table=True)),
    "gptj": replace(_DECODER, stacks=(_GPTJ,), hub=_HUB),
    "gpt_neox": replace(_DECODER, stacks=(_GPT_NEOX,), prefix="gpt_neox", renames=(("embed_out", "lm_head"),)),
    "bloom": replace(_DECODER, stacks=(_BLOOM,)),
    "falcon": replace(_DECODER, stacks=_FALCON),
}
