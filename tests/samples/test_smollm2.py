"""SmolLM2 from GGUF: what changes on the way, by hand; and the whole, by what the model knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samples import assets
from samples.smollm2 import config, unpaired, write_tokenizer

TOKENS = ["<|end|>", "<|start|>", "1", "2", "a", "b", "Ġ", "Ċ", "ab", "Ġa", "12"]
METADATA: dict[str, Any] = {
    "llama.embedding_length": 8,
    "llama.feed_forward_length": 16,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 64,
    "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
    "llama.rope.freq_base": 100000.0,
    "llama.vocab_size": len(TOKENS),
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3] + [1] * (len(TOKENS) - 2),
    "tokenizer.ggml.merges": ["a b", "Ġ a", "1 2"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.padding_token_id": 0,
    "tokenizer.chat_template": "{{ messages }}",
}


def test_epsilon_loses_the_digits_that_float32_gave_it() -> None:
    assert config(METADATA)["rms_norm_eps"] == 1e-5


def test_rows_of_a_head_return_to_transformers_order() -> None:
    # llama.cpp rotates neighbours (0, 1), (2, 3); transformers the halves: (0, 2), (1, 3).
    neighbours = np.array([[0], [2], [1], [3], [10], [12], [11], [13]])
    assert unpaired(neighbours, heads=2).ravel().tolist() == [0, 1, 2, 3, 10, 11, 12, 13]


def test_the_tokenizer_keeps_every_digit_alone_and_special_tokens_whole(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_tokenizer(METADATA, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|start|>ab 12 a\n"
    ids = tokenizer(text).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|start|>", "ab", "Ġ", "1", "2", "Ġa", "Ċ"]
    assert tokenizer.decode(ids) == text
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|start|>", "<|end|>", "<|end|>")
    assert tokenizer.chat_template == METADATA["tokenizer.chat_template"]
    assert tokenizer.model_max_length == METADATA["llama.context_length"]


@pytest.mark.real
def test_the_model_knows_what_it_was_taught() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = assets.smollm2()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    prompts = ["The capital of France is", "1, 2, 3, 4, 5, 6, 7,", "The sun rises in the east and sets in the"]
    with torch.inference_mode():
        ids = [tokenizer(prompt, return_tensors="pt").input_ids for prompt in prompts]
        answers = [tokenizer.decode(model(one).logits[0, -1].argmax()) for one in ids]
    assert answers == [" Paris", " ", " west"]
