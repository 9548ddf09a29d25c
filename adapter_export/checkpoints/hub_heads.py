"""Task heads of AdapterHub's checkpoints: `head_config.json` and its tensors.

A static head was saved from a transformers class and has that class's names. A flexible one, of an `...AdapterModel`,
is a numbered sequence (`heads.<name>.1.weight`): it is taken where it computes what a transformers class computes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapter_export import tasks
from adapter_export.checkpoints.adapter import LM_HEAD, Checkpoint, HeadLayer
from adapter_export.checkpoints.files import field, shortened
from adapter_export.checkpoints.heads import head_layers
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo

HEAD_CONFIG = "head_config.json"
_FLEXIBLE = re.compile(r"heads\.(?P<name>[^.]+)\.(?P<tensor>\d+\.(?:weight|bias))")
# A buffer of BART, part of its head by the library's count.
_LOGITS_BIAS = "final_logits_bias"

# head_type -> our task. The types of several labels differ in the loss only.
_TASKS: Mapping[str, str] = {
    "causal_lm": "causal-lm",
    "classification": "text-classification",
    "image_classification": "image-classification",
    "multilabel_classification": "text-classification",
    "seq2seq_lm": "seq2seq-lm",
}
_LANGUAGE = ("causal_lm", "seq2seq_lm")


@dataclass(frozen=True)
class _Classifier:
    """A transformers class's classifier: its linear layers, what is between them, what it reads.

    pooled: the pooler's output (True), the first token's (False), or the last token's (None), as decoders do.
    """

    layers: tuple[str, ...]
    activation: str | None = None
    pooled: bool | None = False
    bias: bool = True


_DENSE = ("classifier.dense", "classifier.out_proj")
_ROBERTA = _Classifier(_DENSE, "tanh")
_SCORE = _Classifier(("score",), pooled=None, bias=False)
_CLASSIFIERS: Mapping[str, _Classifier] = {
    "albert": _Classifier(("classifier",), pooled=True),
    "bert": _Classifier(("classifier",), pooled=True),
    "distilbert": _Classifier(("pre_classifier", "classifier"), "relu"),
    "electra": _Classifier(_DENSE, "gelu"),
    "gpt2": _SCORE,
    "gptj": _SCORE,
    "llama": _SCORE,
    "mistral": _SCORE,
    "roberta": _ROBERTA,
    "vit": _Classifier(("classifier",)),
    "xlm-roberta": _ROBERTA,
}


def head_of(checkpoint: Checkpoint, info: ModelInfo) -> dict[str, HeadLayer]:
    """The head's layers in the names of the model's class; raises InputError for a head of another kind."""
    if not checkpoint.head:
        return {}
    path = checkpoint.folder / HEAD_CONFIG
    config = field(checkpoint.head_config, path, "config", dict, None)
    if config is not None:
        return head_layers(checkpoint, _translated(checkpoint, config, info), info)
    model_class = field(checkpoint.head_config, path, "model_class", str, None)
    if model_class is not None:
        ours, task = tasks.of_architecture(info.architecture), tasks.of_architecture(model_class)
        if task is None or (ours not in (None, "features") and task != ours):
            raise InputError(
                f"{path}: field 'model_class': a head of {shortened(model_class)} does not fit {info.architecture}; "
                f"remove {HEAD_CONFIG} and the head's tensors to use the adapter without it"
            )
    tensors = dict(checkpoint.head)
    if (constant := tensors.pop(_LOGITS_BIAS, None)) is not None and constant.any():
        raise InputError(f"{checkpoint.folder}: tensor {_LOGITS_BIAS!r}: expected zeros, found other values")
    return head_layers(checkpoint, tensors, info)


def task_of(checkpoint: Checkpoint) -> str | None:
    """The task of the head, or None without one."""
    if not checkpoint.head:
        return None
    if isinstance(config := checkpoint.head_config.get("config"), dict):
        return _TASKS.get(str(config.get("head_type")))
    return tasks.of_architecture(str(checkpoint.head_config.get("model_class", "")))


def labels_of(checkpoint: Checkpoint) -> tuple[str, ...] | None:
    """The class names in the head's order, or None where there are none."""
    config = checkpoint.head_config
    nested = config.get("config")
    label2id = (nested if isinstance(nested, dict) else config).get("label2id")
    # The library writes label names for language models too, where they mean nothing.
    task = task_of(checkpoint)
    if not isinstance(label2id, dict) or (task and not tasks.get(task).labelled) or not checkpoint.head:
        return None
    if set(checkpoint.head) <= {f"{LM_HEAD}.weight", f"{LM_HEAD}.bias"}:
        return None
    ids = list(label2id.values())
    if not all(isinstance(number, int) for number in ids) or sorted(ids) != list(range(len(ids))):
        path = checkpoint.folder / HEAD_CONFIG
        raise InputError(f"{path}: field 'label2id': expected the numbers 0 to {len(ids) - 1}, found {shortened(ids)}")
    return tuple(sorted(label2id, key=lambda label: int(label2id[label])))


def _translated(checkpoint: Checkpoint, config: dict[str, Any], info: ModelInfo) -> dict[str, np.ndarray]:
    """The tensors of a flexible head under the names of the transformers class that computes the same."""
    path = checkpoint.folder / HEAD_CONFIG
    head_type = field(config, path, "head_type", str)
    if (task := _TASKS.get(head_type)) is None:
        raise InputError(
            f"{path}: field 'head_type': {shortened(head_type)} is not supported, as no such model is exported "
            f"(expected one of {', '.join(_TASKS)}); remove {HEAD_CONFIG} and the head's tensors to use the adapter "
            "without it"
        )
    if (ours := tasks.of_architecture(info.architecture)) not in (None, "features", task):
        raise InputError(f"{path}: field 'head_type': {head_type!r} does not fit {info.architecture} ({ours})")
    names = _language(config, path, head_type, info) if head_type in _LANGUAGE else _classifier(config, path, info)
    tensors = {}
    for name, tensor in checkpoint.head.items():
        match = _FLEXIBLE.fullmatch(name)
        number, kind = match["tensor"].split(".") if match else ("", "")
        if number not in names:
            expected = ", ".join(f"heads.*.{number}.{{weight,bias}}" for number in names)
            raise InputError(f"{checkpoint.folder}: tensor {name!r}: expected {expected} for this head")
        tensors[f"{names[number]}.{kind}"] = tensor
    if len(tensors) != len(checkpoint.head):
        raise InputError(f"{checkpoint.folder}: expected one head, found tensors of several")
    return tensors


def _language(config: dict[str, Any], path: Any, head_type: str, info: ModelInfo) -> dict[str, str]:
    """Number in the sequence -> module. One layer without a bias is a language model's own output layer."""
    layers = field(config, path, "layers", int, 1)
    plain = layers == 1 and not config.get("layer_norm") and not config.get("bias")
    # BART's own class adds a constant to its logits, which the library's head does not.
    if not plain or (head_type == "seq2seq_lm" and info.model_type not in ("t5", "mt5")):
        raise InputError(
            f"{path}: field 'config': a {head_type} head of {layers} layers in a {info.model_type} model is not "
            f"supported: expected one layer without bias and norm, equal to the base model's {LM_HEAD}"
        )
    return {"0": LM_HEAD}


def _classifier(config: dict[str, Any], path: Any, info: ModelInfo) -> dict[str, str]:
    """Number in the sequence -> module, for the model's own classifier. Each linear layer has a dropout before it."""
    if (ours := _CLASSIFIERS.get(info.model_type)) is None:
        raise InputError(
            f"{path}: field 'config': a flexible head on a {info.model_type} model is not supported; save the adapter "
            "from a class with a static head, such as BertForSequenceClassification"
        )
    found = {
        "layers": field(config, path, "layers", int, 2),
        "use_pooler": bool(config.get("use_pooler", False)),
        "bias": config.get("bias") is not False,
        "activation_function": config.get("activation_function", "tanh"),
    }
    expected: dict[str, Any] = {"layers": len(ours.layers), "bias": ours.bias}
    if ours.pooled is not None:
        expected["use_pooler"] = ours.pooled
    if len(ours.layers) > 1:
        expected["activation_function"] = ours.activation
    for name, value in expected.items():
        if found[name] != value:
            raise InputError(
                f"{path}: field {name!r}: {shortened(found[name])} is not what the classifier of a {info.model_type} "
                f"model has, expected {value!r}; train with a static head, or with these settings"
            )
    names, number = {}, 0
    for layer in ours.layers:
        names[str(number + 1)] = layer
        number += 3
    return names
