"""`genai_config.json`: what ONNX Runtime GenAI must know of a decoder to load a bundle's folder as it is.

Its model type `decoder` (GenAI 0.9 and newer) is any graph that takes tokens, a mask, positions and a cache by name, so
architectures are not told apart. Source: its `src/config.h`, `src/models/kv_cache.cpp`.
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
# What GenAI fills by itself; a graph may do without the last two.
_IDS, _MASK, _POSITIONS = "input_ids", "attention_mask", "position_ids"
# What a cache keeps of a layer.
_TENSORS = ("key", "value")


def write_genai_config(folder: Path, base: BaseModel, manifest: Manifest) -> None:
    """Write the file into the bundle, whose config files are there already; none where GenAI could not run it."""
    if (config := genai_config(folder, base, manifest)) is not None:
        write_json(folder / GENAI_CONFIG, config)


def genai_config(folder: Path, base: BaseModel, manifest: Manifest) -> dict[str, Any] | None:
    """The file's content. None unless the bundle is one graph of GenAI's own inputs alone, with keys and values of one
    shape [batch, heads, past_sequence, head_size] in every layer, which is what the file can tell of a cache.

    Tokens are chosen greedily, as by our own session, unless the caller sets search options.
    """
    past = {name: info.shape for name, info in manifest.inputs.items() if is_past(name)}
    layers = len(past) // len(_TENSORS)
    # It gives a graph no adapter's tensors where no adapter is set.
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
        # It does not read a text again.
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
    # Past and present in one buffer would need operators made for that.
    search = {"do_sample": False, "max_length": longest, "past_present_share_buffer": False}
    return {"model": model, "search": search}


def _patterns(side: str, prefix: str) -> dict[str, str]:
    """The cache's names, %d for the layer."""
    return {f"{side}_{tensor}_names": f"{prefix}%d.{tensor}" for tensor in _TENSORS}


def _special_tokens(folder: Path, base: BaseModel) -> dict[str, Any]:
    """Where texts begin and end, as far as the model tells.

    GenAI takes pad tokens from the end of a prompt. A model without one therefore gets its end token, in which prompts
    rarely end, rather than GenAI's 0, which may be any word. Without an end token, GenAI ends at the pad token.
    """
    known = getattr(base.module, "generation_config", None)
    bos, pad = (_token(getattr(known, name, None)) for name in ("bos_token_id", "pad_token_id"))
    eos = list(read_generation_config(folder).eos)
    if pad is None and eos:
        pad = eos[0]
    tokens = {"bos_token_id": bos, "eos_token_id": eos or None, "pad_token_id": pad}
    return {name: token for name, token in tokens.items() if token is not None}


def _token(value: Any) -> int | None:
    """A token's id; negative ones, a habit of old configs, mean none."""
    return value if isinstance(value, int) and value >= 0 else None
