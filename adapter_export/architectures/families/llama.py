"""Llama, and the decoders with its layers: Mistral, Mixtral, Qwen, Gemma, Phi."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from adapter_export.architectures.adapterhub import HubRecord
from adapter_export.architectures.families.gpt import SCORE_CLASSIFIERS, SCORE_HEADS
from adapter_export.architectures.record import Architecture, Stack, Sublayer

_LLAMA = Stack(
    layer=r"layers\.(\d+)",
    attention=Sublayer("self_attn.o_proj", "input_layernorm"),
    feedforward=Sublayer("mlp.down_proj", "post_attention_layernorm"),
    query=("self_attn.q_proj",),
    key=("self_attn.k_proj",),
    value=("self_attn.v_proj",),
    attention_output=("self_attn.o_proj",),
    gate=("mlp.gate_proj",),
    up=("mlp.up_proj",),
    down=("mlp.down_proj",),
)
# The experts are parameters without modules, so there is no input that could be scaled.
_MIXTRAL = replace(_LLAMA, feedforward=Sublayer("mlp", "post_attention_layernorm"), gate=(), up=(), down=())
# Gemma 2 and 3 normalise a sublayer's output before the residual is added: h is the output of that second norm.
_GEMMA2 = replace(
    _LLAMA,
    attention=Sublayer("post_attention_layernorm", "input_layernorm"),
    feedforward=Sublayer("post_feedforward_layernorm", "pre_feedforward_layernorm"),
)
_PHI = replace(
    _LLAMA,
    attention=Sublayer("self_attn.dense", "input_layernorm"),
    feedforward=Sublayer("mlp.fc2", "input_layernorm"),
    attention_output=("self_attn.dense",),
    gate=(),
    up=("mlp.fc1",),
    down=("mlp.fc2",),
)
_PHI3 = replace(_LLAMA, query=(), key=(), value=(), fused="self_attn.qkv_proj", gate=(), up=("mlp.gate_up_proj",))

_DECODER = Architecture(stacks=(_LLAMA,), heads=SCORE_HEADS)
# The library calls the second layer of the feed-forward "intermediate" here.
_LLAMA_HUB = HubRecord(known=True, intermediate_is_down=True, classifiers=SCORE_CLASSIFIERS)
_HOOKS = {
    "model_embeddings": "embed_tokens",
    "model_layers": "layers",
    "layer_self_attn": "self_attn",
    "attn_o_proj": "o_proj",
    "layer_intermediate_proj": "mlp.up_proj",
    "layer_output_proj": "mlp.down_proj",
    "attn_k_proj": "k_proj",
    "attn_q_proj": "q_proj",
    "attn_v_proj": "v_proj",
    "layer_pre_self_attn": "input_layernorm",
}
_QWEN = replace(
    _DECODER,
    hub=HubRecord(known=True, interface={**_HOOKS, "layer_pre_ffn": "post_attention_layernorm"}, whole_layer=True),
)
# Unlike our placement, the library takes as h the value before Gemma's second norms.
_GEMMA = replace(
    _DECODER,
    stacks=(_GEMMA2,),
    hub=HubRecord(
        known=True,
        interface={
            **_HOOKS,
            "layer_pre_ffn": "pre_feedforward_layernorm",
            "layer_ln_1": "post_attention_layernorm",
            "layer_ln_2": "post_feedforward_layernorm",
        },
    ),
)
# The library passes no x to the adapter of Phi's feed-forward.
_PHI_HOOKS = {
    **_HOOKS, "attn_o_proj": "dense", "layer_intermediate_proj": "mlp.fc1", "layer_output_proj": "mlp.fc2",
}  # fmt: skip

RECORDS: Mapping[str, Architecture] = {
    "llama": replace(_DECODER, hub=_LLAMA_HUB),
    "mistral": replace(_DECODER, hub=_LLAMA_HUB),
    # The experts' old names, `experts.N.w2`, are not modules of today's transformers.
    "mixtral": replace(_DECODER, stacks=(_MIXTRAL,), renames=(("layers.N.block_sparse_moe", "layers.N.mlp"),)),
    "qwen2": _QWEN,
    "qwen3": _QWEN,
    "gemma": _DECODER,
    "gemma2": _GEMMA,
    "gemma3_text": replace(_GEMMA, stem="Gemma3Text"),
    "phi": replace(_DECODER, stacks=(_PHI,), hub=HubRecord(known=True, interface=_PHI_HOOKS)),
    "phi3": replace(_DECODER, stacks=(_PHI3,), rereads=True),
    "phimoe": Architecture(rereads=True),
    "phi4_multimodal": Architecture(rereads=True),
}
