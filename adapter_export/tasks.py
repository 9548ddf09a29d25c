"""The tasks a model can be loaded, trained and exported for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter_export.architectures.facts import facts
from adapter_export.errors import InputError


@dataclass(frozen=True)
class Task:
    """auto_class: the transformers class that loads it. peft: PEFT's name for it. output: the tensor users read.
    suffixes: endings of class names in a config's `architectures` that mean this task. labelled: has a head of its own
    for class labels.
    """

    name: str
    auto_class: str
    output: str
    suffixes: tuple[str, ...]
    peft: str | None = None
    labelled: bool = False


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("features", "AutoModel", "last_hidden_state", ("Model",), "FEATURE_EXTRACTION"),
        Task(
            "text-classification",
            "AutoModelForSequenceClassification",
            "logits",
            ("ForSequenceClassification",),
            "SEQ_CLS",
            labelled=True,
        ),
        Task(
            "image-classification",
            "AutoModelForImageClassification",
            "logits",
            ("ForImageClassification",),
            labelled=True,
        ),
        Task("causal-lm", "AutoModelForCausalLM", "logits", ("ForCausalLM", "LMHeadModel"), "CAUSAL_LM"),
        Task("seq2seq-lm", "AutoModelForSeq2SeqLM", "logits", ("ForConditionalGeneration",), "SEQ_2_SEQ_LM"),
    )
}


def get(name: str) -> Task:
    """The task called `name`; raises InputError naming the known ones."""
    if name not in TASKS:
        raise InputError(f"task {name!r}: expected one of {', '.join(TASKS)}")
    return TASKS[name]


def auto_class(task: Task, model_type: str) -> str:
    """The transformers class that loads a model of that `model_type` for `task`."""
    return "AutoModelForSpeechSeq2Seq" if task.name == "seq2seq-lm" and facts(model_type).speech else task.auto_class


def of_architecture(class_name: str) -> str | None:
    """Task of a transformers class name (`BertForSequenceClassification`), or None; a base class gives `features`."""
    matches = [task.name for task in TASKS.values() if class_name.endswith(task.suffixes)]
    # "Model" is a suffix of "LMHeadModel" too: the longer match is listed later.
    return matches[-1] if matches else None


def of_config(config: Mapping[str, Any]) -> str | None:
    """Task of a model's config by its `architectures`, or None where that is absent or unknown."""
    architectures = config.get("architectures") or []
    return of_architecture(str(architectures[0])) if architectures else None


def of_peft(name: str | None) -> str | None:
    """Task of PEFT's `task_type`, or None."""
    return next((task.name for task in TASKS.values() if name is not None and task.peft == name), None)
