"""ModernBERT. Its attention has a fused projection, so that an IA3 vector scales queries too."""

from __future__ import annotations

from collections.abc import Mapping

from adapter_export.architectures.adapterhub import HubRecord
from adapter_export.architectures.record import Architecture, HeadRecord, Stack, Sublayer

_STACK = Stack(
    layer=r"layers\.(\d+)",
    attention=Sublayer("attn.Wo", "attn_norm"),
    feedforward=Sublayer("mlp.Wo", "mlp_norm"),
    fused="attn.Wqkv",
    attention_output=("attn.Wo",),
    # Gate and up in one matrix.
    up=("mlp.Wi",),
    down=("mlp.Wo",),
)

RECORDS: Mapping[str, Architecture] = {
    "modernbert": Architecture(
        stacks=(_STACK,),
        heads={
            "text-classification": HeadRecord(
                ("head.dense", "classifier"), norms=("head.norm",), bias_settings={"head.dense": "classifier_bias"}
            )
        },
        # Unlike our placement, the library takes as x the value after the norm.
        hub=HubRecord(
            known=True,
            interface={
                "model_embeddings": "embeddings",
                "model_layers": "layers",
                "layer_self_attn": "attn",
                "attn_o_proj": "Wo",
                "layer_intermediate_proj": "mlp.Wi",
                "layer_output_proj": "mlp.Wo",
                "attn_qkv_proj": "Wqkv",
                "layer_pre_self_attn": "attn",
                "layer_pre_ffn": "mlp",
                "layer_ln_1": "mlp_norm",
            },
        ),
    ),
}
