"""Vision transformers: ViT and the models that transformers 5 renamed in the same way, DINOv2, SegFormer, Swin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from adapter_export.architectures.adapterhub import HubClassifier, HubRecord, HubStack
from adapter_export.architectures.record import Architecture, HeadRecord, Stack, Sublayer

TASK = "image-classification"
_VIT = Stack(
    layer=r"layers\.(\d+)",
    attention=Sublayer("attention.o_proj", "layernorm_before"),
    feedforward=Sublayer("mlp.fc2", "layernorm_after"),
    query=("attention.q_proj",),
    key=("attention.k_proj",),
    value=("attention.v_proj",),
    attention_output=("attention.o_proj",),
    up=("mlp.fc1",),
    down=("mlp.fc2",),
    hub=HubStack(output="output.output_adapters"),
)
# The output of each sublayer is scaled before the residual is added: h is the scaled value.
_DINOV2 = replace(
    _VIT,
    layer=r"encoder\.layer\.(\d+)",
    attention=Sublayer("layer_scale1", "norm1"),
    feedforward=Sublayer("layer_scale2", "norm2"),
    hub=HubStack(),
)
# The feed-forward of the largest model is gated.
_DINOV2_GATED = replace(_DINOV2, gate=("mlp.gate_proj",), up=("mlp.up_proj",), down=("mlp.down_proj",))

_VIT_RENAMES = (
    ("encoder.layer.N.attention.attention.query", "layers.N.attention.q_proj"),
    ("encoder.layer.N.attention.attention.key", "layers.N.attention.k_proj"),
    ("encoder.layer.N.attention.attention.value", "layers.N.attention.v_proj"),
    ("encoder.layer.N.attention.output.dense", "layers.N.attention.o_proj"),
    ("encoder.layer.N.intermediate.dense", "layers.N.mlp.fc1"),
    ("encoder.layer.N.output.dense", "layers.N.mlp.fc2"),
    ("encoder.layer.N", "layers.N"),
)
_DINOV2_RENAMES = (
    ("encoder.layer.N.attention.attention.query", "encoder.layer.N.attention.q_proj"),
    ("encoder.layer.N.attention.attention.key", "encoder.layer.N.attention.k_proj"),
    ("encoder.layer.N.attention.attention.value", "encoder.layer.N.attention.v_proj"),
    ("encoder.layer.N.attention.output.dense", "encoder.layer.N.attention.o_proj"),
    ("encoder.layer.N.mlp.weights_out", "encoder.layer.N.mlp.down_proj"),
)
_SEGFORMER_BLOCK = (
    ("attention.self.query", "attention.q_proj"),
    ("attention.self.key", "attention.k_proj"),
    ("attention.self.value", "attention.v_proj"),
    ("attention.self.sr", "attention.sequence_reduction.sequence_reduction"),
    ("attention.self.layer_norm", "attention.sequence_reduction.layer_norm"),
    ("attention.output.dense", "attention.o_proj"),
    ("mlp.dense1", "mlp.fc1"),
    ("mlp.dense2", "mlp.fc2"),
    ("layer_norm_1", "layernorm_before"),
    ("layer_norm_2", "layernorm_after"),
)
_SEGFORMER_RENAMES = (
    *((f"encoder.block.N.N.{then}", f"stages.N.blocks.N.{now}") for then, now in _SEGFORMER_BLOCK),
    ("encoder.block.N.N", "stages.N.blocks.N"),
    ("encoder.patch_embeddings.N", "stages.N.patch_embeddings"),
    ("encoder.layer_norm.N", "stages.N.layer_norm"),
)
_SWIN_RENAMES = (
    ("attention.self.query", "attention.q_proj"),
    ("attention.self.key", "attention.k_proj"),
    ("attention.self.value", "attention.v_proj"),
    ("attention.self.relative_position_bias_table", "attention.relative_position_bias.relative_position_bias_table"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)
_CLASSIFIER = ("classifier",)

RECORDS: Mapping[str, Architecture] = {
    "vit": Architecture(
        stacks=(_VIT,),
        renames=_VIT_RENAMES,
        prefix="vit",
        heads={TASK: HeadRecord(_CLASSIFIER)},
        hub=HubRecord(known=True, classifiers=(HubClassifier(_CLASSIFIER),)),
    ),
    # Its classifier reads the class token and the mean of the patches.
    "dinov2": Architecture(
        stacks=(_DINOV2_GATED, _DINOV2),
        renames=_DINOV2_RENAMES,
        prefix="dinov2",
        heads={TASK: HeadRecord(_CLASSIFIER, doubled=True)},
    ),
    "dinov2_with_registers": Architecture(renames=_DINOV2_RENAMES),
    **dict.fromkeys(
        ("audio-spectrogram-transformer", "beit", "deit", "ijepa", "vit_mae", "vit_msn", "vivit"),
        Architecture(renames=_VIT_RENAMES),
    ),
    "segformer": Architecture(renames=_SEGFORMER_RENAMES),
    "swin": Architecture(renames=_SWIN_RENAMES),
}
