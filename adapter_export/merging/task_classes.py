"""What the task classes of transformers add around a base model: the data to give a model another task head without
building it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter_export import tasks
from adapter_export.architectures.registry import facts

_SUFFIXES = {"text-classification": "ForSequenceClassification", "image-classification": "ForImageClassification"}
_STEM = re.compile(r"(.+?)(For[A-Z]\w*|LMHeadModel|DoubleHeadsModel|EncoderModel|Model)")


@dataclass(frozen=True)
class TaskClass:
    """A task class of transformers.

    Attributes:
        architecture: Name of the class.
        prefix: The prefix of the base model's paths in the class.
        layers: Linear layers of the head, in order.
        biases: The layers that have a bias.
        norms: Further modules of the head, which are kept from the base model's checkpoint where it has them.
        needed: A module of the base model that must be there, or None.
        doubled: Whether the first layer reads two vectors.
    """

    architecture: str
    prefix: str
    layers: tuple[str, ...]
    biases: frozenset[str]
    norms: tuple[str, ...] = ()
    needed: str | None = None
    doubled: bool = False


def task_class(model_type: str, task: str, config: Mapping[str, Any]) -> TaskClass | None:
    """Returns the class as which `task` loads such a model; None if it is not known here."""
    record = facts(model_type)
    head = record.heads.get(task)
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    match = _STEM.fullmatch(architecture)
    stem = record.stem or (match[1] if match else "")
    if head is None or not stem:
        return None
    unset = {layer for layer, setting in head.bias_settings.items() if not config.get(setting, False)}
    return TaskClass(
        architecture if tasks.of_architecture(architecture) == task else stem + _SUFFIXES[task],
        record.prefix,
        head.layers,
        frozenset({*head.layers} - {*head.without_bias} - unset),
        norms=head.norms,
        needed=record.pooler or None,
        doubled=head.doubled,
    )
