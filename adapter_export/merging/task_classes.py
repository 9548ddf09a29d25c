"""What the task classes of transformers add around a base model, as data: needed to give a model another task head
without building it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter_export import tasks
from adapter_export.architectures.heads import HEAD_LAYERS

# model_type -> what a task class puts before the base model's module paths; `model` for all others.
_PREFIXES: Mapping[str, str] = {
    **{name: name for name in ("albert", "bert", "deberta", "distilbert", "dinov2", "electra", "gpt_neox", "mpnet",
                               "vit")},
    **dict.fromkeys(("camembert", "roberta", "xlm-roberta"), "roberta"),
    **dict.fromkeys(("bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "mt5", "openai-gpt", "t5"),
                    "transformer"),
    **dict.fromkeys(("clip", "clip_text_model", "clip_vision_model"), "clip"),
    "deberta-v2": "deberta",
}  # fmt: skip
_SUFFIXES = {"text-classification": "ForSequenceClassification", "image-classification": "ForImageClassification"}
# Parts of a base model that its task classes use and others leave out: saved from those, they are not on disk.
_NEEDED: Mapping[str, str] = {"albert": "pooler", "bert": "pooler.dense"}
_STEM = re.compile(r"(.+?)(For[A-Z]\w*|LMHeadModel|DoubleHeadsModel|EncoderModel|Model)")
# Classes whose name is not their language model's with another ending.
_STEMS: Mapping[str, str] = {"gemma3_text": "Gemma3Text"}


@dataclass(frozen=True)
class TaskClass:
    """architecture: the class. prefix: before the base model's paths. layers: linear layers of the head, in order.
    biases: those with a bias. norms: modules of the head besides, kept from the base model's checkpoint where it has
    them. needed: a module of the base model that must be there, or None.
    """

    architecture: str
    prefix: str
    layers: tuple[str, ...]
    biases: frozenset[str]
    norms: tuple[str, ...] = ()
    needed: str | None = None


def prefix_of(model_type: str) -> str:
    """What a task class of this architecture puts before the base model's module paths."""
    return _PREFIXES.get(model_type, "model")


def task_class(model_type: str, task: str, config: Mapping[str, Any]) -> TaskClass | None:
    """The class that `task` loads such a model as, or None where it is not known here."""
    layers = HEAD_LAYERS.get(task, {}).get(model_type)
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    match = _STEM.fullmatch(architecture)
    stem = _STEMS.get(model_type, match[1] if match else "")
    if layers is None or not stem:
        return None
    biases = set(layers) - {"score"}
    if model_type == "modernbert" and not config.get("classifier_bias", False):
        biases -= {"head.dense"}
    return TaskClass(
        architecture if tasks.of_architecture(architecture) == task else stem + _SUFFIXES[task],
        prefix_of(model_type),
        layers,
        frozenset(biases),
        norms=("head.norm",) if model_type == "modernbert" else (),
        needed=_NEEDED.get(model_type),
    )
