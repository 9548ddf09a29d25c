"""A tiny LLaMA on disk made of plain arrays, and PEFT adapters for it: no framework, so that hundreds can be broken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

HIDDEN, KEY_VALUE, FFN, VOCABULARY, LAYERS = 8, 4, 12, 10, 2
CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN,
    "num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
}  # fmt: skip
SHAPES: Mapping[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
    **{
        f"model.layers.{i}.{name}.weight": shape
        for i in range(LAYERS)
        for name, shape in {
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (KEY_VALUE, HIDDEN),
            "self_attn.v_proj": (KEY_VALUE, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (FFN, HIDDEN),
            "mlp.up_proj": (FFN, HIDDEN),
            "mlp.down_proj": (HIDDEN, FFN),
            "input_layernorm": (HIDDEN,),
        }.items()
    },
    "model.norm.weight": (HIDDEN,),
    "lm_head.weight": (VOCABULARY, HIDDEN),
}
INDEX = "model.safetensors.index.json"


def tensors(dtype: Any = np.float32, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 1, shape).astype(dtype) for name, shape in SHAPES.items()}


def write_model(folder: Path, dtype: Any = np.float32, shards: int = 1, **config: Any) -> Path:
    """A model folder with a generation config and a tokenizer file; in `shards` files with an index, or in one."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}, indent=1))
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    state = tensors(dtype)
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    where = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        held = {name: state[name] for name in list(state)[number::shards]}
        save_file(held, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(held, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1, "of": "tests"}, "weight_map": where}))
    return folder


def write_adapter(folder: Path, seed: int = 1, **config: Any) -> Path:
    """A PEFT IA3 checkpoint with random vectors on k, v and the input of down."""
    folder.mkdir(parents=True)
    settings = {
        "peft_type": "IA3", "task_type": "CAUSAL_LM", "target_modules": ["k_proj", "v_proj", "down_proj"],
        "feedforward_modules": ["down_proj"], **config,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(
        {f"base_model.model.{name}.ia3_l": value for name, value in vectors(seed).items()},
        folder / "adapter_model.safetensors",
    )
    return folder


def vectors(seed: int = 1) -> dict[str, np.ndarray]:
    """The adapter's vectors by module, shaped as PEFT does."""
    rng = np.random.default_rng(seed)
    sizes = {"self_attn.k_proj": (KEY_VALUE, 1), "self_attn.v_proj": (KEY_VALUE, 1), "mlp.down_proj": (1, FFN)}
    return {
        f"model.layers.{i}.{name}": rng.normal(1, 0.3, size).astype(np.float32)
        for i in range(LAYERS)
        for name, size in sizes.items()
    }


def expected(state: Mapping[str, np.ndarray], *seeds: int) -> dict[str, np.ndarray]:
    """The product in float64 of weights and all adapters' vectors, cast once; float16 and wider."""
    result = dict(state)
    for name, tensor in state.items():
        scaled = tensor.astype(np.float64)
        for seed in seeds:
            if (vector := vectors(seed).get(name.removesuffix(".weight"))) is not None:
                scaled = scaled * vector
        result[name] = scaled.astype(tensor.dtype)
    return result
