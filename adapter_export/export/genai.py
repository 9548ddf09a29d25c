"""Writes `genai_config.json`, with which ONNX Runtime GenAI can load the folder of a bundle with a decoder.

GenAI's model type `decoder` (0.9 and newer) accepts any graph that takes tokens, a mask, positions and a cache by name,
so the architecture does not matter. Source: GenAI's `src/config.h` and `src/models/kv_cache.cpp`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapter_export.bundle.graphs import PAST, PRESENT, is_past, past_name
from adapter_export.bundle.manifest import Manifest
from adapter_export.export.samples import max_sequence
from adapter_export.models.base_model import BaseModel
from adapter_export.outputs.files import write_json
from adapter_export.runtime.generation.config import read_generation_config

GENAI_CONFIG = "genai_config.json"
_TYPE = "decoder"
# Inputs that GenAI makes. A graph need not have the last two.
_IDS, _MASK, _POSITIONS = "input_ids", "attention_mask", "position_ids"
# The tensors of each layer in a cache.
_TENSORS = ("key", "value")


def write_genai_config(folder: Path, base: BaseModel, manifest: Manifest) -> None:
    """Writes the file, unless GenAI cannot run the bundle.

    Args:
        folder: Folder of the bundle, which already contains the model's config files.
        base: The base model as exported.
        manifest: The manifest of the bundle.
    """
    if (config := genai_config(folder, base, manifest)) is not None:
        write_json(folder / GENAI_CONFIG, config)


def genai_config(folder: Path, base: BaseModel, manifest: Manifest) -> dict[str, Any] | None:
    """Returns the content of the file; None if GenAI cannot run the bundle.

    GenAI can run bundles of one graph that has only inputs that GenAI makes, and a cache with keys and values of the
    same shape [batch, heads, past_sequence, head_size] in every layer, because the file can describe no other cache.

    Tokens are chosen greedily, as by `AdapterSession`, unless the caller sets search options.

    Args:
        folder: Folder of the bundle, which already contains the model's config files.
        base: The base model as exported.
        manifest: The manifest of the bundle.
    """
    past = {name: info.shape for name, info in manifest.inputs.items() if is_past(name)}
    layers = len(past) // len(_TENSORS)
    # Without an active adapter, GenAI feeds no adapter tensors, so they cannot be required inputs.
    if manifest.bind.required:
        return None
    if not past or set(past) != {past_name(layer, tensor) for layer in range(layers) for tensor in _TENSORS}:
        return None
    fed = [name for name in (_IDS, _MASK, _POSITIONS) if name in manifest.inputs]
    if len(set(past.values())) != 1 or fed[:1] != [_IDS] or set(manifest.inputs) != {*fed, *past}:
        return None
    _, heads, _, size = next(iter(past.values()))
    config = base.module.config.get_text_config()
    longest = max_sequence(config)
    if manifest.reread_at is not None:
        # GenAI does not read a text again.
        longest = min(longest, manifest.reread_at)
    decoder = {
        "filename": manifest.model,
        "hidden_size": base.info.hidden_size,
        "head_size": size,
        "num_attention_heads": getattr(config, "num_attention_heads", heads),
        "num_key_value_heads": heads,
        "num_hidden_layers": layers,
        "inputs": {name: name for name in fed} | _patterns("past", PAST),
        "outputs": {"logits": "logits"} | _patterns("present", PRESENT),
    }
    model = {
        "type": _TYPE,
        **_special_tokens(folder, base),
        "context_length": longest,
        "vocab_size": manifest.outputs["logits"].shape[-1],
        "decoder": decoder,
    }
    search = {"do_sample": False, "max_length": longest, "past_present_share_buffer": manifest.shares_cache}
    return {"model": model, "search": search}


def _patterns(side: str, prefix: str) -> dict[str, str]:
    """Returns patterns for the names of the cache, with %d for the number of the layer."""
    return {f"{side}_{tensor}_names": f"{prefix}%d.{tensor}" for tensor in _TENSORS}


def _special_tokens(folder: Path, base: BaseModel) -> dict[str, Any]:
    """Returns the tokens with which texts begin, end and are padded, if the model has them.

    GenAI removes padding tokens from the end of a prompt. For a model without a padding token, the end token is written
    as the padding token, because prompts rarely end with it. GenAI's default is 0, which may be the token of any word.
    If there is no end token, GenAI stops at the padding token.
    """
    known = getattr(base.module, "generation_config", None)
    bos, pad = (_token(getattr(known, name, None)) for name in ("bos_token_id", "pad_token_id"))
    eos = list(read_generation_config(folder).eos)
    if pad is None and eos:
        pad = eos[0]
    tokens = {"bos_token_id": bos, "eos_token_id": eos or None, "pad_token_id": pad}
    return {name: token for name, token in tokens.items() if token is not None}


def _token(value: Any) -> int | None:
    """Returns a token id. Negative ids, as in old configs, mean that there is none."""
    return value if isinstance(value, int) and value >= 0 else None
