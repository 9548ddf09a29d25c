"""Task heads of AdapterHub's checkpoints: `head_config.json` and its tensors.

A static head was saved from a transformers class and has the names of that class. A flexible head, of an
`...AdapterModel`, is a numbered sequence (`heads.<name>.1.weight`). It is read if a transformers class computes the
same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

import numpy as np

from adapter_export import tasks
from adapter_export.architectures.adapterhub import POOLER
from adapter_export.architectures.registry import facts
from adapter_export.architectures.renames import canonical
from adapter_export.checkpoints.adapter import LM_HEAD, Checkpoint, HeadLayer
from adapter_export.checkpoints.heads import head_layers
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.reading.fields import field
from adapter_export.reading.shown import shortened
from adapter_export.sites import strip_prefix

HEAD_CONFIG = "head_config.json"
_FLEXIBLE = re.compile(r"heads\.(?P<name>[^.]+)\.(?P<tensor>\d+\.(?:weight|bias))")
# A buffer of BART, which the library saves with the head.
_LOGITS_BIAS = "final_logits_bias"

# head_type -> the task, as in `tasks.TASKS` or `tasks.UNSERVED`. The multilabel types differ in the loss only.
_TASKS: Mapping[str, str] = {
    "causal_lm": "causal-lm",
    "classification": "text-classification",
    "image_classification": "image-classification",
    "multilabel_classification": "text-classification",
    "multiple_choice": "multiple-choice",
    "question_answering": "question-answering",
    "seq2seq_lm": "seq2seq-lm",
    "tagging": "token-classification",
}
_LANGUAGE = ("causal_lm", "seq2seq_lm")
_WITHOUT = "--task features exports the adapter's body without this head"


@dataclass(frozen=True)
class Head:
    """A task head as read from a checkpoint.

    Attributes:
        layers: Its layers, by the names of the model's class.
        repeated: Weights of the base model that are saved with it.
        notes: Notes for the user.
    """

    layers: Mapping[str, HeadLayer] = dataclass_field(default_factory=dict)
    repeated: Mapping[str, np.ndarray] = dataclass_field(default_factory=dict)
    notes: tuple[str, ...] = ()


def head_of(checkpoint: Checkpoint, info: ModelInfo) -> Head:
    """Returns the checkpoint's head. Raises InputError for a head that the model's class does not have."""
    if not checkpoint.head:
        return Head()
    path = checkpoint.folder / HEAD_CONFIG
    config = field(checkpoint.head_config, path, "config", dict, None)
    if config is not None:
        tensors, notes = _one_head(checkpoint)
        return Head(head_layers(checkpoint, _translated(checkpoint, tensors, config, info), info), notes=notes)
    model_class = field(checkpoint.head_config, path, "model_class", str, None)
    if model_class is not None:
        ours, task = tasks.of_architecture(info.architecture), tasks.of_architecture(model_class)
        if task is None or (ours not in (None, "features") and task != ours):
            raise InputError(
                f"{path}: field 'model_class': a head of {shortened(model_class)} does not fit {info.architecture}; "
                f"{_WITHOUT}"
            )
    tensors = dict(checkpoint.head)
    if (constant := tensors.pop(_LOGITS_BIAS, None)) is not None and constant.any():
        raise InputError(f"{checkpoint.folder}: tensor {_LOGITS_BIAS!r}: expected zeros, found other values")
    tensors, repeated = _apart(checkpoint, tensors, info)
    return Head(head_layers(checkpoint, tensors, info), repeated)


def problem_type_of(checkpoint: Checkpoint) -> str | None:
    """Returns the problem type of a flexible head (see `Adapter`), by its type and, as in the library's loss, its
    size.
    """
    config = checkpoint.head_config.get("config")
    if not checkpoint.head or not isinstance(config, dict) or not tasks.is_labelled(task_of(checkpoint)):
        return None
    if config.get("head_type") == "multilabel_classification":
        return "multi_label_classification"
    if config.get("num_labels") == 1:
        return "regression"
    return "multi_label_classification" if config.get("multilabel") else "single_label_classification"


def task_of(checkpoint: Checkpoint) -> str | None:
    """Returns the task of the head; None without a head."""
    return task_stated(checkpoint.head_config) if checkpoint.head else None


def task_stated(head_config: Mapping[str, Any]) -> str | None:
    """Returns the task that a `head_config.json` states, as in `tasks.TASKS` or `tasks.UNSERVED`, or None."""
    if isinstance(config := head_config.get("config"), dict):
        return _TASKS.get(str(config.get("head_type")))
    return tasks.of_architecture(str(head_config.get("model_class", "")))


def labels_of(checkpoint: Checkpoint) -> tuple[str, ...] | None:
    """Returns the class names in the order of the head's outputs; None if there are none."""
    config = checkpoint.head_config
    nested = config.get("config")
    owner = nested if isinstance(nested, dict) else config
    label2id = owner.get("label2id")
    if label2id is None and isinstance(owner.get("id2label"), dict):
        label2id = {str(label): number for number, label in owner["id2label"].items()}
    # The library also writes label names for language models, where they have no meaning.
    task = task_of(checkpoint)
    if not isinstance(label2id, dict) or (task and not tasks.is_labelled(task)) or not checkpoint.head:
        return None
    if set(checkpoint.head) <= {f"{LM_HEAD}.weight", f"{LM_HEAD}.bias"}:
        return None
    # The library reads the numbers with `int` as well.
    ids = {
        label: int(number) if isinstance(number, str) and number.isdecimal() else number
        for label, number in label2id.items()
    }
    if not all(isinstance(number, int) for number in ids.values()) or sorted(ids.values()) != list(range(len(ids))):
        path = checkpoint.folder / HEAD_CONFIG
        raise InputError(
            f"{path}: field 'label2id': expected the numbers 0 to {len(ids) - 1}, found {shortened(list(ids.values()))}"
        )
    labels = tuple(sorted(ids, key=lambda label: ids[label]))
    # The names that the library writes if the user gave none.
    return None if labels == tuple(f"LABEL_{number}" for number in range(len(labels))) else labels


def _one_head(checkpoint: Checkpoint) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns the tensors of the head that the config names, and notes on others.

    The library saves all heads whose names begin with this head's name, and leaves the others out when loading.
    """
    name = checkpoint.head_config.get("name")
    own = {key: tensor for key, tensor in checkpoint.head.items() if key.startswith(f"heads.{name}.")}
    others = {key.split(".")[1] for key in checkpoint.head if key.startswith(f"heads.{name}") and key not in own}
    if (
        not isinstance(name, str)
        or not own
        or not others
        or len(own) + sum(key.split(".")[1] in others for key in checkpoint.head) < len(checkpoint.head)
    ):
        return dict(checkpoint.head), ()
    return own, (f"{HEAD_CONFIG}: the file of the head {name!r} also holds {', '.join(sorted(others))}, left out",)


def _apart(
    checkpoint: Checkpoint, tensors: Mapping[str, np.ndarray], info: ModelInfo
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the head's own tensors, and weights of the base model by module.

    T5's classifier is saved with the whole model around it, the adapter included. Tensors that are neither stay with
    the head, whose reader refuses them by name.
    """
    own: dict[str, np.ndarray] = {}
    repeated: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        path = canonical(info.model_type, strip_prefix(module, info.prefix))
        if name in checkpoint.tensors and np.array_equal(tensor, checkpoint.tensors[name]):
            continue
        if info.nested and path != module and path in info.modules and kind == "weight":
            repeated[path] = tensor
        else:
            own[name] = tensor
    # The embeddings of encoder and decoder are the shared embeddings under other names.
    shared = repeated.get("shared")
    for path in [path for path in repeated if shared is not None and path.endswith(".embed_tokens")]:
        if np.array_equal(repeated[path], shared):  # type: ignore[arg-type]
            del repeated[path]
    return own, repeated


def _translated(
    checkpoint: Checkpoint, head: Mapping[str, np.ndarray], config: dict[str, Any], info: ModelInfo
) -> dict[str, np.ndarray]:
    """Returns the tensors of a flexible head by the names of the transformers class that computes the same."""
    path = checkpoint.folder / HEAD_CONFIG
    head_type = field(config, path, "head_type", str)
    if (task := _TASKS.get(head_type)) not in tasks.TASKS:
        raise InputError(
            f"{path}: field 'head_type': {shortened(head_type)} is not supported, as no such model is exported "
            f"(expected one of {', '.join(kind for kind in _TASKS if _TASKS[kind] in tasks.TASKS)}); {_WITHOUT}"
        )
    if (ours := tasks.of_architecture(info.architecture)) not in (None, "features", task):
        raise InputError(f"{path}: field 'head_type': {head_type!r} does not fit {info.architecture} ({ours})")
    names = _language(config, path, head_type, info) if head_type in _LANGUAGE else _classifier(config, path, info)
    tensors = {}
    for name, tensor in head.items():
        match = _FLEXIBLE.fullmatch(name)
        number, kind = match["tensor"].split(".") if match else ("", "")
        if number not in names:
            expected = ", ".join(f"heads.*.{number}.{{weight,bias}}" for number in names)
            raise InputError(f"{checkpoint.folder}: tensor {name!r}: expected {expected} for this head")
        tensors[f"{names[number]}.{kind}"] = tensor
    if len(tensors) != len(head):
        raise InputError(f"{checkpoint.folder}: expected one head, found tensors of several")
    return tensors


def _language(config: dict[str, Any], path: Any, head_type: str, info: ModelInfo) -> dict[str, str]:
    """Returns modules by number in the sequence. A single layer without a bias is a language model's own output
    layer.
    """
    layers = field(config, path, "layers", int, 1)
    plain = layers == 1 and not config.get("layer_norm") and not config.get("bias")
    # BART's own class adds a constant to its logits; the library's head does not.
    if not plain or (head_type == "seq2seq_lm" and not facts(info.model_type).hub.plain_writer):
        raise InputError(
            f"{path}: field 'config': a {head_type} head of {layers} layers in a {info.model_type} model is not "
            f"supported: expected one layer without bias and norm, equal to the base model's {LM_HEAD}; {_WITHOUT}"
        )
    return {"0": LM_HEAD}


def _classifier(config: dict[str, Any], path: Any, info: ModelInfo) -> dict[str, str]:
    """Returns modules by number in the sequence, for the model's own classifier. A dropout precedes each linear
    layer.
    """
    if not (kinds := facts(info.model_type).hub.classifiers):
        raise InputError(
            f"{path}: field 'config': a flexible head on a {info.model_type} model is not supported; save the adapter "
            f"from a class with a static head, such as BertForSequenceClassification, or leave it out: {_WITHOUT}"
        )
    activation = config.get("activation_function", "tanh")
    found = {
        "layers": field(config, path, "layers", int, 2),
        "use_pooler": bool(config.get("use_pooler", False)),
        "bias": config.get("bias") is not False,
        "activation_function": activation.lower() if isinstance(activation, str) else activation,
    }
    ours = min(kinds, key=lambda kind: (len(kind.layers) != found["layers"], kind.pooled != found["use_pooler"]))
    expected: dict[str, Any] = {"layers": len(ours.layers), "bias": ours.bias}
    if ours.pooled is not None:
        expected["use_pooler"] = ours.pooled
    if len(ours.layers) > 1:
        expected["activation_function"] = info.head_activation or ours.activation
    for name, value in expected.items():
        if found[name] != value:
            raise InputError(
                f"{path}: field {name!r}: {shortened(found[name])} is not what the classifier of a {info.model_type} "
                f"model has, expected {value!r}; {_WITHOUT}"
            )
    return {str(3 * number + 1): info.pooler if layer == POOLER else layer for number, layer in enumerate(ours.layers)}
