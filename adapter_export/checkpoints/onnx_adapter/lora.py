"""LoRA in adapter files of Olive and of graphs that ONNX Runtime GenAI's model builder made.

Olive 0.13 (`convert-adapters`): `model.layers.0.self_attn.q_proj.lora_A.weight`. GenAI 0.18 (option `adapter_path`):
`model.layers.0.attn.q_proj.lora_A.MatMul.weight`. Both hold A (in, rank) and B (rank, out), B times alpha / rank. Olive
takes this scale from `r` and `lora_alpha` alone: a file that it made from a checkpoint with a `rank_pattern` or an
`alpha_pattern` has the wrong scale in those modules, and does not show it.
"""

from __future__ import annotations

import re

from adapter_export.architectures.renames import canonical
from adapter_export.checkpoints.onnx_adapter import Place
from adapter_export.errors import InputError
from adapter_export.methods.lora import LoRAOperator
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import strip_prefix

OLIVE, GENAI = "olive", "genai"
TOOLS = (OLIVE, GENAI)

_NAME = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])(?P<node>\.MatMul)?(?P<quantized>\.quant)?\.\w+")
_TENSORS = {"A": "a", "B": "b"}
_PEFT_PREFIX = "base_model.model."
# GenAI's names: those of the models of transformers that are built like LLaMA, but for one part.
_GENAI_MODULE = re.compile(r"(?P<layer>model\.layers\.\d+\.)(?P<block>attn|mlp)\.(?P<layers>\w+)")
_GENAI_BLOCKS = {"attn": "self_attn", "mlp": "mlp"}


def place(name: str, info: ModelInfo) -> Place | None:
    """Returns what the name of a tensor says; None for other names. Raises InputError for quantized matrices."""
    if (match := _NAME.fullmatch(name)) is None:
        return None
    if match["quantized"]:
        raise InputError(f"tensor {name!r}: the matrices are quantized; convert the adapter without quantization")
    module = match["module"]
    if match["node"] and (genai := _GENAI_MODULE.fullmatch(module)):
        module = f"{genai['layer']}{_GENAI_BLOCKS[genai['block']]}.{genai['layers']}"
    path = strip_prefix(canonical(info.model_type, module.removeprefix(_PEFT_PREFIX)), info.prefix)
    return Place(path, LoRAOperator.op_name, _TENSORS[match["part"]])


def foreign_name(place: Place, tool: str, info: ModelInfo) -> str | None:
    """Returns the tool's name of a tensor; None if the tool has no name for it."""
    parts = {tensor: part for part, tensor in _TENSORS.items()}
    if place.op_name != LoRAOperator.op_name:
        return None
    module = f"{info.prefix}.{place.module}" if info.prefix else place.module
    if tool == OLIVE:
        # Olive takes PEFT's prefix away from such names only.
        shown = module if module.startswith("model.") else _PEFT_PREFIX + module
        return f"{shown}.lora_{parts[place.tensor]}.weight"
    for block, ours in _GENAI_BLOCKS.items():
        shown = module.replace(f".{ours}.", f".{block}.")
        if (found := _GENAI_MODULE.fullmatch(shown)) and found["block"] == block:
            return f"{shown}.lora_{parts[place.tensor]}.MatMul.weight"
    return None
