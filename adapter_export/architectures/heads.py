"""The linear layers of the task heads that transformers' classes have, by task and model_type."""

from __future__ import annotations

from collections.abc import Mapping

_DENSE_HEAD = ("classifier.dense", "classifier.out_proj")
_DECODER_HEAD = ("classification_head.dense", "classification_head.out_proj")
# task -> model_type -> the linear layers of its head, in order.
HEAD_LAYERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "text-classification": {
        **dict.fromkeys(("albert", "bert"), ("classifier",)),
        **dict.fromkeys(("camembert", "electra", "mpnet", "roberta", "xlm-roberta"), _DENSE_HEAD),
        **dict.fromkeys(("bart", "mbart", "mt5", "t5"), _DECODER_HEAD),
        **dict.fromkeys(("deberta", "deberta-v2"), ("pooler.dense", "classifier")),
        "distilbert": ("pre_classifier", "classifier"),
        "modernbert": ("head.dense", "classifier"),
        **dict.fromkeys(
            ("bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj",
             "llama", "mistral", "mixtral", "openai-gpt", "opt", "phi", "phi3", "qwen2", "qwen3"),
            ("score",),
        ),
    },
    "image-classification": dict.fromkeys(("dinov2", "vit"), ("classifier",)),
}  # fmt: skip
