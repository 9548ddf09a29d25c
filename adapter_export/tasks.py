"""The tasks that a model can be loaded, trained and exported for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter_export.architectures.registry import facts
from adapter_export.errors import InputError


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: Its name.
        auto_class: The transformers class that loads a model for it.
        output: The output tensor that users read.
        suffixes: Ends of class names in a config's `architectures` that mean this task.
        peft: PEFT's name for it, or None.
        labelled: Whether it has a head for class labels.
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
# Tasks that are not supported. Their heads are recognised, so that they are refused by name and never taken for heads
# of another task: a head for each token may have the names and sizes of one for whole texts. Values: ends of class
# names, and PEFT's name.
UNSERVED: Mapping[str, tuple[tuple[str, ...], str | None]] = {
    "token-classification": (("ForTokenClassification",), "TOKEN_CLS"),
    "question-answering": (("ForQuestionAnswering", "ForQuestionAnsweringSimple"), "QUESTION_ANS"),
    "multiple-choice": (("ForMultipleChoice",), None),
    "next-sentence-prediction": (("ForNextSentencePrediction",), None),
    "audio-classification": (("ForAudioClassification", "ForAudioFrameClassification", "ForXVector"), None),
    "object-detection": (("ForObjectDetection",), None),
    "image-segmentation": (
        ("ForSemanticSegmentation", "ForImageSegmentation", "ForUniversalSegmentation", "ForInstanceSegmentation"),
        None,
    ),
    "depth-estimation": (("ForDepthEstimation",), None),
}
_SUFFIXES = (
    *((task.name, task.suffixes) for task in TASKS.values()),
    *((name, suffixes) for name, (suffixes, _) in UNSERVED.items()),
)
_PEFT = (
    *((task.name, task.peft) for task in TASKS.values()),
    *((name, peft) for name, (_, peft) in UNSERVED.items()),
)


def get(name: str) -> Task:
    """Returns the task called `name`. Raises InputError naming the known ones."""
    if name in UNSERVED:
        raise InputError(f"task {name!r}: found {unserved(name)}")
    if name not in TASKS:
        raise InputError(f"task {name!r}: expected one of {', '.join(TASKS)}")
    return TASKS[name]


def auto_class(task: Task, model_type: str) -> str:
    """Returns the transformers class that loads a model of that `model_type` for `task`."""
    return "AutoModelForSpeechSeq2Seq" if task.name == "seq2seq-lm" and facts(model_type).speech else task.auto_class


def of_architecture(class_name: str) -> str | None:
    """Returns the task of a transformers class name (`BertForSequenceClassification`), or None.

    A base class gives `features`. The task may be one of `UNSERVED`.
    """
    matches = [name for name, suffixes in _SUFFIXES if class_name.endswith(suffixes)]
    # "Model" is also an end of "LMHeadModel". The longer match comes later in the list.
    return matches[-1] if matches else None


def of_config(config: Mapping[str, Any]) -> str | None:
    """Returns the task of a model's config by its `architectures`; None if the field is absent or unknown."""
    architectures = config.get("architectures") or []
    named = isinstance(architectures, list) and architectures
    return of_architecture(str(architectures[0])) if named else None


def of_peft(name: str | None) -> str | None:
    """Returns the task of PEFT's `task_type`, or None. It may be one of `UNSERVED`."""
    return next((task for task, peft in _PEFT if name is not None and peft == name), None)


def is_labelled(name: str | None) -> bool:
    """Returns whether this is a task in `TASKS` with a head for class labels."""
    return name is not None and name in TASKS and TASKS[name].labelled


def unserved(task: str) -> str:
    """Returns the message about a head for one of `UNSERVED`. It follows the name of the adapter or file."""
    return (
        f"a head for {task}, which is not served yet (a later version will); --task features exports the body without "
        "the head"
    )
