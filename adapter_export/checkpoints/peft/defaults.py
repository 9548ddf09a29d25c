"""Where PEFT puts IA3 and LoRA if its config does not say it, by `model_type` (peft 0.21, `utils/constants.py`).

Configs that PEFT saved say it; older and hand-written ones may not. A test compares this table with the installed PEFT.
Where this project puts IA3 is in `methods/ia3.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Defaults:
    """The modules that are scaled.

    Attributes:
        outputs: Modules scaled at their output.
        inputs: Modules scaled at their input (`feedforward_modules`).
    """

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """All of the modules, as in `target_modules`."""
        return self.outputs + self.inputs


_FALCON = Defaults(("query_key_value",), ("dense_4h_to_h",))
_BART = Defaults(("q_proj", "v_proj"), ("fc2",))
_BERT = Defaults(("key", "value"), ("output.dense",))
_GPT2 = Defaults(("c_attn",), ("mlp.c_proj",))
_LLAMA = Defaults(("k_proj", "v_proj"), ("down_proj",))
_QWEN = Defaults(("q_proj", "v_proj"), ("down_proj",))

DEFAULTS: Mapping[str, Defaults] = {
    "bart": _BART,
    "bert": _BERT,
    "bloom": Defaults(("query_key_value",), ("mlp.dense_4h_to_h",)),
    "deberta": Defaults(("in_proj",), ("output.dense",)),
    "deberta-v2": Defaults(("key_proj", "value_proj"), ("output.dense",)),
    "falcon": _FALCON,
    "gemma": _QWEN,
    "gemma2": _QWEN,
    "gemma3_text": _QWEN,
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "gpt_neo": Defaults(("q_proj", "v_proj"), ("c_proj",)),
    "gpt_neox": _FALCON,
    "gptj": Defaults(("q_proj", "v_proj"), ("fc_out",)),
    "llama": _LLAMA,
    "llama4": _QWEN,
    "mistral": _LLAMA,
    "mixtral": Defaults(("k_proj", "v_proj"), ("w2",)),
    "mt5": Defaults(("k", "v", "wi_1"), ()),
    "opt": Defaults(("q_proj", "k_proj"), ("fc2",)),
    "phi": _BART,
    "qwen2": _QWEN,
    "qwen3": _QWEN,
    "RefinedWeb": _FALCON,
    "RefinedWebModel": _FALCON,
    "roberta": _BERT,
    "t5": Defaults(("k", "v"), ("wo",)),
}

# The modules of LoRA: names, or one regular expression.
LORA_DEFAULTS: Mapping[str, tuple[str, ...] | str] = {
    "RefinedWeb": ("query_key_value",),
    "RefinedWebModel": ("query_key_value",),
    "bart": ("q_proj", "v_proj"),
    "bert": ("query", "value"),
    "blip-2": ("q", "v", "q_proj", "v_proj"),
    "bloom": ("query_key_value",),
    "btlm": ("c_proj", "c_attn"),
    "chatglm": ("query_key_value",),
    "codegen": ("qkv_proj",),
    "deberta": ("in_proj",),
    "deberta-v2": ("query_proj", "value_proj"),
    "electra": ("query", "value"),
    "falcon": ("query_key_value",),
    "gemma": ("q_proj", "v_proj"),
    "gemma2": ("q_proj", "v_proj"),
    "gemma3_text": ("q_proj", "v_proj"),
    "gemma4": ".*language_model\\..*\\.(q_proj|v_proj)",
    "gpt2": ("c_attn",),
    "gpt_bigcode": ("c_attn",),
    "gpt_neo": ("q_proj", "v_proj"),
    "gpt_neox": ("query_key_value",),
    "gptj": ("q_proj", "v_proj"),
    "layoutlm": ("query", "value"),
    "llama": ("q_proj", "v_proj"),
    "llama4": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "v_proj"),
    "mixtral": ("q_proj", "v_proj"),
    "mpt": ("Wqkv",),
    "mt5": ("q", "v"),
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "opt": ("q_proj", "v_proj"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "qwen2": ("q_proj", "v_proj"),
    "qwen3": ("q_proj", "v_proj"),
    "roberta": ("query", "value"),
    "rwkv": ("key", "value", "receptance", "output"),
    "rwkv7": ("r_proj", "k_proj", "v_proj", "o_proj", "key", "value"),
    "stablelm": ("q_proj", "v_proj"),
    "t5": ("q", "v"),
    "xlm-roberta": ("query", "value"),
}
