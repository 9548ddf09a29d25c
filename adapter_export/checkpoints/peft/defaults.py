"""Where PEFT puts IA3 if its config does not say it, by `model_type` (peft 0.21, `utils/constants.py`).

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
