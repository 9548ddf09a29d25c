"""BART and the models with its layers: mBART, OPT, Whisper, CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from adapter_export.architectures.adapterhub import HubClassifier, HubCross, HubRecord, HubStack
from adapter_export.architectures.families.gpt import SCORE_HEADS
from adapter_export.architectures.record import Architecture, HeadRecord, Stack, Sublayer

# Pre-norm, as in mBART and Whisper.
_MBART_ENCODER = Stack(
    layer=r"encoder\.layers\.(\d+)",
    attention=Sublayer("self_attn.out_proj", "self_attn_layer_norm"),
    feedforward=Sublayer("fc2", "final_layer_norm"),
    query=("self_attn.q_proj",),
    key=("self_attn.k_proj",),
    value=("self_attn.v_proj",),
    attention_output=("self_attn.out_proj",),
    up=("fc1",),
    down=("fc2",),
)
_CROSS = ("cross_attention_adapters", "encoder_attn.out_proj")
_MBART_DECODER = replace(
    _MBART_ENCODER,
    layer=r"decoder\.layers\.(\d+)",
    query=("self_attn.q_proj", "encoder_attn.q_proj"),
    key=("self_attn.k_proj", "encoder_attn.k_proj"),
    value=("self_attn.v_proj", "encoder_attn.v_proj"),
    attention_output=("self_attn.out_proj", "encoder_attn.out_proj"),
    hub=HubStack(cross=HubCross(*_CROSS, "encoder_attn_layer_norm")),
)
_ATTENTION = Sublayer("self_attn.out_proj", "self_attn", norm="self_attn_layer_norm")
_FEEDFORWARD = Sublayer("fc2", "fc1", norm="final_layer_norm")
_BART_ENCODER = replace(_MBART_ENCODER, attention=_ATTENTION, feedforward=_FEEDFORWARD)
_BART_DECODER = replace(
    _MBART_DECODER,
    attention=_ATTENTION,
    feedforward=_FEEDFORWARD,
    hub=HubStack(cross=HubCross(*_CROSS, "encoder_attn", norm="encoder_attn_layer_norm")),
)
# Pre-norm models end in a norm. The only post-norm model (350M) does not; its other modules are the same.
_OPT = (
    replace(_MBART_ENCODER, layer=_MBART_DECODER.layer, needs="decoder.final_layer_norm"),
    replace(_BART_ENCODER, layer=_MBART_DECODER.layer),
)
_CLIP = replace(
    _MBART_ENCODER,
    attention=Sublayer("self_attn.out_proj", "layer_norm1"),
    feedforward=Sublayer("mlp.fc2", "layer_norm2"),
    up=("mlp.fc1",),
    down=("mlp.fc2",),
)
_HEAD = ("classification_head.dense", "classification_head.out_proj")
_HEADS = {"text-classification": HeadRecord(_HEAD)}
_KNOWN = HubRecord(known=True)
_CLIP_HALF = Architecture(stacks=(_CLIP,), prefix="clip", end_token=True, hub=_KNOWN)

RECORDS: Mapping[str, Architecture] = {
    "bart": Architecture(
        stacks=(_BART_ENCODER, _BART_DECODER),
        heads=_HEADS,
        hub=HubRecord(known=True, classifiers=(HubClassifier(_HEAD, "tanh"),)),
    ),
    "mbart": Architecture(
        stacks=(_MBART_ENCODER, _MBART_DECODER),
        heads=_HEADS,
        one_row_differs=True,
        hub=HubRecord(known=True, classifiers=(HubClassifier(_HEAD, "tanh", pooled=None),)),
    ),
    "whisper": Architecture(
        stacks=(_MBART_ENCODER, _MBART_DECODER),
        speech=True,
        hub=_KNOWN,
    ),
    "opt": Architecture(stacks=_OPT, heads=SCORE_HEADS),
    "clip": replace(
        _CLIP_HALF,
        stacks=(
            replace(_CLIP, layer=rf"text_model\.{_CLIP.layer}"),
            replace(_CLIP, layer=rf"vision_model\.{_CLIP.layer}"),
        ),
        parts=("clip_text_model", "clip_vision_model"),
    ),
    "clip_text_model": replace(
        _CLIP_HALF,
        renames=(
            ("text_model.embeddings", "embeddings"),
            ("text_model.encoder", "encoder"),
            ("text_model.final_layer_norm", "final_layer_norm"),
        ),
    ),
    "clip_vision_model": replace(
        _CLIP_HALF,
        renames=(
            ("vision_model.embeddings", "embeddings"),
            ("vision_model.encoder", "encoder"),
            ("vision_model.pre_layrnorm", "pre_layrnorm"),
            ("vision_model.post_layernorm", "post_layernorm"),
        ),
    ),
}
