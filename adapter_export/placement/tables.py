"""The architectures known by name. Adding one is adding an entry; `architecture` finds it by `model_type`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from adapter_export.errors import InputError
from adapter_export.placement.architecture import Architecture, Custom, Placement, Stack, no_sites

_BERT = Stack(
    layer=r"encoder\.layer\.(\d+)",
    scaled_outputs=("attention.self.key", "attention.self.value"),
    scaled_inputs=("output.dense",),
    attention_output="attention.output.dense",
    attention_residual="attention",
    attention_norm="attention.output.LayerNorm",
    ffn_output="output.dense",
    ffn_residual="intermediate",
    ffn_norm="output.LayerNorm",
    hub_attention="attention.output",
    hub_output="output",
)
_DEBERTA2 = replace(_BERT, scaled_outputs=("attention.self.key_proj", "attention.self.value_proj"))
_DISTILBERT = Stack(
    layer=r"transformer\.layer\.(\d+)",
    scaled_outputs=("attention.k_lin", "attention.v_lin"),
    scaled_inputs=("ffn.lin2",),
    attention_output="attention.out_lin",
    attention_residual="attention",
    attention_norm="sa_layer_norm",
    ffn_output="ffn.lin2",
    ffn_residual="ffn",
    ffn_norm="output_layer_norm",
)
# One group of layers is applied again and again: a site of ALBERT acts once per application, with the same tensors.
_ALBERT = Stack(
    layer=r"encoder\.albert_layer_groups\.(\d+)\.albert_layers\.\d+",
    scaled_outputs=("attention.key", "attention.value"),
    scaled_inputs=("ffn_output",),
    attention_output="attention.dense",
    attention_residual="attention",
    attention_norm="attention.LayerNorm",
    ffn_output="ffn_output",
    ffn_residual="ffn",
    ffn_norm="full_layer_layer_norm",
    hub_attention="attention.attention_adapters",
)
_MPNET = replace(
    _BERT,
    scaled_outputs=("attention.attn.k", "attention.attn.v"),
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
    hub_attention="attention_adapters",
    hub_output="output_adapters",
)
# Fused: the vector scales queries too.
_MODERNBERT = Stack(
    layer=r"layers\.(\d+)",
    scaled_outputs=("attn.Wqkv",),
    scaled_inputs=("mlp.Wo",),
    attention_output="attn.Wo",
    attention_residual="attn_norm",
    ffn_output="mlp.Wo",
    ffn_residual="mlp_norm",
)
_GPT2 = Stack(
    layer=r"h\.(\d+)",
    scaled_outputs=("attn.c_attn",),
    scaled_inputs=("mlp.c_proj",),
    attention_output="attn.c_proj",
    attention_residual="ln_1",
    ffn_output="mlp.c_proj",
    ffn_residual="ln_2",
)
_GPT_NEO = replace(
    _GPT2,
    scaled_outputs=("attn.attention.k_proj", "attn.attention.v_proj"),
    attention_output="attn.attention.out_proj",
)
# Attention and feed-forward side by side (GPT-J, Phi, Falcon, and GPT-NeoX as published): both read the layer's input
# x, and the layer gives x plus both outputs, which is the z of Pfeiffer's adapter.
_GPTJ = Stack(
    layer=r"h\.(\d+)",
    scaled_outputs=("attn.k_proj", "attn.v_proj"),
    scaled_inputs=("mlp.fc_out",),
    attention_output="attn.out_proj",
    attention_residual="ln_1",
    ffn_output="mlp.fc_out",
    ffn_residual="ln_1",
)
_LLAMA = Stack(
    layer=r"layers\.(\d+)",
    scaled_outputs=("self_attn.k_proj", "self_attn.v_proj"),
    scaled_inputs=("mlp.down_proj",),
    attention_output="self_attn.o_proj",
    attention_residual="input_layernorm",
    ffn_output="mlp.down_proj",
    ffn_residual="post_attention_layernorm",
)
_PHI = replace(
    _LLAMA,
    scaled_inputs=("mlp.fc2",),
    attention_output="self_attn.dense",
    ffn_output="mlp.fc2",
    ffn_residual="input_layernorm",
)
_PHI3 = replace(_LLAMA, scaled_outputs=("self_attn.qkv_proj",))
# Gemma 2 and 3 normalise a sublayer's output before the residual is added: h is the output of that second norm.
_GEMMA2 = replace(
    _LLAMA,
    attention_output="post_attention_layernorm",
    ffn_output="post_feedforward_layernorm",
    ffn_residual="pre_feedforward_layernorm",
)
# The experts are two parameters without modules, so IA3 has no input to scale there.
_MIXTRAL = replace(_LLAMA, scaled_inputs=(), ffn_output="mlp")
_GPT_NEOX = Stack(
    layer=r"layers\.(\d+)",
    scaled_outputs=("attention.query_key_value",),
    scaled_inputs=("mlp.dense_4h_to_h",),
    attention_output="attention.dense",
    attention_residual="input_layernorm",
    ffn_output="mlp.dense_4h_to_h",
    ffn_residual="post_attention_layernorm",
)
_BLOOM = replace(
    _GPT_NEOX,
    layer=r"h\.(\d+)",
    scaled_outputs=("self_attention.query_key_value",),
    attention_output="self_attention.dense",
)
# Falcon has a norm for each of two sublayers side by side (40B), one for both (7B), or one after the other (RW).
_FALCON = (
    replace(_BLOOM, attention_residual="ln_attn", ffn_residual="ln_mlp"),
    _BLOOM,
    replace(_BLOOM, ffn_residual="input_layernorm"),
)
_T5_ENCODER = Stack(
    layer=r"encoder\.block\.(\d+)",
    scaled_outputs=("layer.0.SelfAttention.k", "layer.0.SelfAttention.v"),
    scaled_inputs=("layer.1.DenseReluDense.wo",),
    attention_output="layer.0.SelfAttention.o",
    attention_residual="layer.0",
    ffn_output="layer.1.DenseReluDense.wo",
    ffn_residual="layer.1",
    hub_attention="layer.0",
    hub_output="layer.1",
)
# Nothing stands after cross-attention; IA3 scales its keys and values too, as the paper does.
_T5_DECODER = replace(
    _T5_ENCODER,
    layer=r"decoder\.block\.(\d+)",
    scaled_outputs=(
        "layer.0.SelfAttention.k",
        "layer.0.SelfAttention.v",
        "layer.1.EncDecAttention.k",
        "layer.1.EncDecAttention.v",
    ),
    scaled_inputs=("layer.2.DenseReluDense.wo",),
    ffn_output="layer.2.DenseReluDense.wo",
    ffn_residual="layer.2",
    hub_output="layer.2",
)
# Pre-norm, as in mBART and Whisper.
_MBART_ENCODER = Stack(
    layer=r"encoder\.layers\.(\d+)",
    scaled_outputs=("self_attn.k_proj", "self_attn.v_proj"),
    scaled_inputs=("fc2",),
    attention_output="self_attn.out_proj",
    attention_residual="self_attn_layer_norm",
    ffn_output="fc2",
    ffn_residual="final_layer_norm",
)
_MBART_DECODER = replace(
    _MBART_ENCODER,
    layer=r"decoder\.layers\.(\d+)",
    scaled_outputs=("self_attn.k_proj", "self_attn.v_proj", "encoder_attn.k_proj", "encoder_attn.v_proj"),
)
_BART_ENCODER = replace(
    _MBART_ENCODER,
    attention_residual="self_attn",
    attention_norm="self_attn_layer_norm",
    ffn_residual="fc1",
    ffn_norm="final_layer_norm",
)
_BART_DECODER = replace(_BART_ENCODER, layer=_MBART_DECODER.layer, scaled_outputs=_MBART_DECODER.scaled_outputs)
# Pre-norm models end in a norm; the one post-norm model (350M) does not, and has the same modules otherwise.
_OPT = (
    replace(_MBART_ENCODER, layer=_MBART_DECODER.layer, needs="decoder.final_layer_norm"),
    replace(_BART_ENCODER, layer=_MBART_DECODER.layer),
)
_VIT = Stack(
    layer=r"layers\.(\d+)",
    scaled_outputs=("attention.k_proj", "attention.v_proj"),
    scaled_inputs=("mlp.fc2",),
    attention_output="attention.o_proj",
    attention_residual="layernorm_before",
    ffn_output="mlp.fc2",
    ffn_residual="layernorm_after",
    hub_output="output.output_adapters",
)
# Each sublayer's output is scaled before the residual is added: h is what that gives.
_DINOV2_MLP = replace(
    _VIT,
    layer=_BERT.layer,
    attention_output="layer_scale1",
    attention_residual="norm1",
    ffn_output="layer_scale2",
    ffn_residual="norm2",
    hub_output="output_adapters",
)
# The largest has a gated feed-forward.
_DINOV2 = (replace(_DINOV2_MLP, scaled_inputs=("mlp.down_proj",)), _DINOV2_MLP)
_CLIP = replace(
    _MBART_ENCODER,
    scaled_inputs=("mlp.fc2",),
    attention_residual="layer_norm1",
    ffn_output="mlp.fc2",
    ffn_residual="layer_norm2",
)

# model_type -> its stacks. Of those that name the same layers the first whose modules are all there counts.
_STACKS: Mapping[str, tuple[Stack, ...]] = {
    "albert": (_ALBERT,),
    "bart": (_BART_ENCODER, _BART_DECODER),
    "bert": (_BERT,),
    "bloom": (_BLOOM,),
    "clip": (
        replace(_CLIP, layer=rf"text_model\.{_CLIP.layer}"),
        replace(_CLIP, layer=rf"vision_model\.{_CLIP.layer}"),
    ),
    "clip_text_model": (_CLIP,),
    "clip_vision_model": (_CLIP,),
    "deberta-v2": (_DEBERTA2,),
    "dinov2": _DINOV2,
    "distilbert": (_DISTILBERT,),
    "electra": (_BERT,),
    "falcon": _FALCON,
    "gemma": (_LLAMA,),
    "gemma2": (_GEMMA2,),
    "gemma3_text": (_GEMMA2,),
    "gpt2": (_GPT2,),
    "gpt_neo": (_GPT_NEO,),
    "gpt_neox": (_GPT_NEOX,),
    "gptj": (_GPTJ,),
    "llama": (_LLAMA,),
    "mbart": (_MBART_ENCODER, _MBART_DECODER),
    "mistral": (_LLAMA,),
    "mixtral": (_MIXTRAL,),
    "modernbert": (_MODERNBERT,),
    "mpnet": (_MPNET,),
    "mt5": (_T5_ENCODER, _T5_DECODER),
    "opt": _OPT,
    "phi": (_PHI,),
    "phi3": (_PHI3,),
    "qwen2": (_LLAMA,),
    "qwen3": (_LLAMA,),
    "roberta": (_BERT,),
    "t5": (_T5_ENCODER, _T5_DECODER),
    "vit": (_VIT,),
    "whisper": (_MBART_ENCODER, _MBART_DECODER),
    "xlm-roberta": (_BERT,),
}


def model_types() -> list[str]:
    """The `model_type`s with a table entry, sorted."""
    return sorted(_STACKS)


def known(model_type: str) -> Architecture | None:
    """The table entry of `model_type`, or None."""
    stacks = _STACKS.get(model_type)
    return None if stacks is None else Architecture(model_type, stacks)


def placement_for(
    model_type: str, modules: Iterable[str], target: str | None = None, feedforward: str | None = None
) -> Placement:
    """The placement of a model: by `target` and `feedforward` where given, else by its table entry.

    Raises InputError, listing the candidate modules, for an unknown architecture; also for a broken expression.
    """
    if target is not None:
        for option, expression in (("--target", target), ("--feedforward", feedforward)):
            try:
                re.compile(expression or "")
            except re.error as error:
                raise InputError(f"{option} {expression!r}: not a regular expression: {error}") from None
        return Custom(target, feedforward)
    if feedforward is not None:
        raise InputError("--feedforward: needs --target as well")
    if (architecture := known(model_type)) is None:
        raise no_sites(f"model_type {model_type!r} has no placement table (known: {', '.join(model_types())})", modules)
    return architecture
