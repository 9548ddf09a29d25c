"""SmolLM2-135M-Instruct from its GGUF file to a model folder as transformers reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from samples.gguf import Gguf

# GGUF's name of a layer's tensor -> that of transformers' LlamaForCausalLM.
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHERS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
# GGUF's mark of tokens that stand for no text.
_CONTROL = 3


def convert(file: Gguf, folder: Path) -> None:
    """Write config, tokenizer and model.safetensors into `folder`, which exists.

    Weights are float32: exactly what the file's 4 and 8 bits stand for. The embeddings give the logits, too (tied).
    """
    from safetensors.numpy import save_file

    _write(folder / "config.json", config(file.metadata))
    ends = {key: file.metadata[f"tokenizer.ggml.{key}"] for key in ("bos_token_id", "eos_token_id")}
    _write(
        folder / "generation_config.json", {**ends, "pad_token_id": file.metadata["tokenizer.ggml.padding_token_id"]}
    )
    write_tokenizer(file.metadata, folder)
    save_file(weights(file), folder / "model.safetensors", {"format": "pt"})


def config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the model."""

    def of(key: str) -> Any:
        return metadata[f"llama.{key}"]

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": of("embedding_length"),
        "intermediate_size": of("feed_forward_length"),
        "num_hidden_layers": of("block_count"),
        "num_attention_heads": of("attention.head_count"),
        "num_key_value_heads": of("attention.head_count_kv"),
        "max_position_embeddings": of("context_length"),
        # Stored in float32, where 1e-5 is 9.999999747e-06.
        "rms_norm_eps": float(np.format_float_positional(np.float32(of("attention.layer_norm_rms_epsilon")))),
        "rope_parameters": {"rope_type": "default", "rope_theta": of("rope.freq_base")},
        "vocab_size": of("vocab_size"),
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "dtype": "float32",
        **special_ids(metadata),
    }


def special_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Tokens that begin, end and pad, as both configs name them."""
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    return {f"{ours}_token_id": metadata[f"tokenizer.ggml.{theirs}_token_id"] for ours, theirs in names.items()}


def weights(file: Gguf) -> dict[str, np.ndarray]:
    """Every tensor by transformers' name."""
    heads = {
        "attn_q": file.metadata["llama.attention.head_count"],
        "attn_k": file.metadata["llama.attention.head_count_kv"],
    }
    found = {}
    for name, tensor in file.tensors():
        if name in _OTHERS:
            found[_OTHERS[name]] = tensor
            continue
        _, layer, kind, _ = name.split(".")
        ordered = unpaired(tensor, heads[kind]) if kind in heads else tensor
        found[f"model.layers.{layer}.{_LAYER[kind]}.weight"] = np.ascontiguousarray(ordered)
    return found


def unpaired(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head from llama.cpp's order (0, 32, 1, 33, ...), where those that are rotated together lie together, to
    transformers' (0, 1, 2, ...). Shapes: [outputs, inputs] both."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_tokenizer(metadata: Mapping[str, Any], folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja: byte-level BPE as GPT-2's, every digit alone."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = metadata["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True) for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {name.removesuffix("_id"): tokens[number] for name, number in special_ids(metadata).items()}
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": metadata["llama.context_length"],
            "clean_up_tokenization_spaces": False,
            **special,
            "unk_token": tokens[metadata["tokenizer.ggml.unknown_token_id"]],
        },
    )
    (folder / "chat_template.jinja").write_text(metadata["tokenizer.chat_template"], encoding="utf-8")


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
