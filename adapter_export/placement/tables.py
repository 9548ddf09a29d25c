"""The architectures known by name. Adding one is adding an entry; `architecture` finds it by `model_type`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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
_MPNET = Stack(
    layer=r"encoder\.layer\.(\d+)",
    scaled_outputs=("attention.attn.k", "attention.attn.v"),
    scaled_inputs=("output.dense",),
    attention_output="attention.attn.o",
    attention_residual="attention",
    attention_norm="attention.LayerNorm",
    ffn_output="output.dense",
    ffn_residual="intermediate",
    ffn_norm="output.LayerNorm",
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
_LLAMA = Stack(
    layer=r"layers\.(\d+)",
    scaled_outputs=("self_attn.k_proj", "self_attn.v_proj"),
    scaled_inputs=("mlp.down_proj",),
    attention_output="self_attn.o_proj",
    attention_residual="input_layernorm",
    ffn_output="mlp.down_proj",
    ffn_residual="post_attention_layernorm",
)
# Gemma 2 and 3 normalise a sublayer's output before the residual is added: h is the output of that second norm.
_GEMMA2 = Stack(
    layer=_LLAMA.layer,
    scaled_outputs=_LLAMA.scaled_outputs,
    scaled_inputs=_LLAMA.scaled_inputs,
    attention_output="post_attention_layernorm",
    attention_residual="input_layernorm",
    ffn_output="post_feedforward_layernorm",
    ffn_residual="pre_feedforward_layernorm",
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
# AdapterHub places nothing after cross-attention; IA3 scales its keys and values too, as the paper does.
_T5_DECODER = Stack(
    layer=r"decoder\.block\.(\d+)",
    scaled_outputs=(
        "layer.0.SelfAttention.k",
        "layer.0.SelfAttention.v",
        "layer.1.EncDecAttention.k",
        "layer.1.EncDecAttention.v",
    ),
    scaled_inputs=("layer.2.DenseReluDense.wo",),
    attention_output="layer.0.SelfAttention.o",
    attention_residual="layer.0",
    ffn_output="layer.2.DenseReluDense.wo",
    ffn_residual="layer.2",
    hub_attention="layer.0",
    hub_output="layer.2",
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

_STACKS: Mapping[str, tuple[Stack, ...]] = {
    "albert": (_ALBERT,),
    "bert": (_BERT,),
    "distilbert": (_DISTILBERT,),
    "electra": (_BERT,),
    "gemma": (_LLAMA,),
    "gemma2": (_GEMMA2,),
    "gemma3_text": (_GEMMA2,),
    "gpt2": (_GPT2,),
    "llama": (_LLAMA,),
    "mistral": (_LLAMA,),
    "mpnet": (_MPNET,),
    "qwen2": (_LLAMA,),
    "qwen3": (_LLAMA,),
    "roberta": (_BERT,),
    "t5": (_T5_ENCODER, _T5_DECODER),
    "vit": (_VIT,),
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
