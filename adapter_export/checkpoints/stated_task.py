"""The task that an adapter's checkpoint states, and the task of an export or a merge that follows.

The checkpoint comes first (our own file beside it, its config, its head's layers), then the user's choice, then the
base model's class. If two of them contradict each other, that is an error: a head in a place that it was not trained
for would give wrong numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter_export import tasks
from adapter_export.architectures.registry import facts
from adapter_export.architectures.renames import canonical
from adapter_export.checkpoints.adapter import OUTPUT_LAYERS, Checkpoint
from adapter_export.checkpoints.adapterhub import heads
from adapter_export.checkpoints.peft import reading as peft
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.reading.shown import shortened
from adapter_export.sites import strip_prefix

AUTO = "auto"
# First parts of the paths of modules that task classes add to a base model.
_HEADS = frozenset(
    {"classification_head", "classifier", "cls", "embed_out", "generator_lm_head", "head", "lm_head", "logits_proj",
     "multiple_choice_head", "pre_classifier", "predictions", "proj_out", "qa_outputs", "score", "sequence_summary",
     "vocab_projector", "vocab_transform"}
)  # fmt: skip
# The task of heads that only one task has, by such a first part.
_ONLY: Mapping[str, str] = {
    "classification_head": "text-classification",
    "qa_outputs": "question-answering",
    "multiple_choice_head": "multiple-choice",
}
_CLASSES = "text-classification", "image-classification"


@dataclass(frozen=True)
class StatedTask:
    """What a checkpoint states about its task.

    Attributes:
        task: A name in `tasks.TASKS` or `tasks.UNSERVED`; None if the checkpoint states none.
        source: What states the task, for messages.
        head: Modules of the task head, a repeated `lm_head` included.
        unknown: Describes a head of an unknown kind; None otherwise.
        wrong: How the checkpoint contradicts itself, which is an error unless its head is left out; None otherwise.
    """

    task: str | None = None
    source: str = ""
    head: tuple[str, ...] = ()
    unknown: str | None = None
    wrong: str | None = None


def stated_task(checkpoint: Checkpoint, config: Mapping[str, Any]) -> StatedTask:
    """Returns what the checkpoint states about its task.

    Args:
        checkpoint: The checkpoint.
        config: Config of the base model.
    """
    if checkpoint.format != peft.FORMAT:
        return _stated_by_head(checkpoint)
    head = head_modules(checkpoint)
    said, source = peft.task_of(checkpoint), f"task_type {checkpoint.config.get('task_type')!r}"
    # PEFT has one name for the classification of texts and of images.
    if said == "text-classification" and _reads_images(config):
        said = "image-classification"
    if own := checkpoint.sidecar.get("task"):
        wrong = f"task {own!r} in adapter_export.json contradicts {source}" if said not in (None, own) else None
        said, source = str(own), f"task {own!r} in adapter_export.json"
        if wrong is not None:
            return StatedTask(said, source, head, wrong=wrong)
    if said is None:
        found = _of_head(checkpoint, head, config)
        return StatedTask(found, f"its head ({', '.join(head)})" if found else "", head)
    labelled = set(head) - set(OUTPUT_LAYERS)
    if labelled and not tasks.is_labelled(said) and said not in tasks.UNSERVED:
        listed = ", ".join(sorted(labelled))
        return StatedTask(
            said, source, head, wrong=f"{source} contradicts the task head that is saved with it ({listed})"
        )
    return StatedTask(said, source, head)


def head_modules(checkpoint: Checkpoint, info: ModelInfo | None = None) -> tuple[str, ...]:
    """Returns the paths of the modules of the checkpoint's task head.

    Args:
        checkpoint: The checkpoint.
        info: Description of the base model, if it is known: then all modules outside it belong to the head. Without it,
            modules belong to the head by their usual names.
    """
    if checkpoint.format != peft.FORMAT:
        return tuple(sorted({name.rpartition(".")[0] for name in checkpoint.head}))
    modules = {name.rpartition(".")[0] for name in peft.head_tensors(checkpoint)}
    if info is not None:
        inside = {module for module in modules if _path(module, info) in info.modules} - set(info.head)
        return tuple(sorted(modules - inside))
    head = {module for module in modules if module.partition(".")[0] in _HEADS}
    # DeBERTa's pooler is part of the classifier; BERT's is part of the base model.
    return tuple(sorted(head | (modules & {"pooler.dense"} if head else set())))


def choose_task(asked: str, adapters: Mapping[str, StatedTask], config: Mapping[str, Any]) -> str | None:
    """Returns the task for all adapters; None if none of them states one.

    Args:
        asked: `auto`, or the task that the user chose. By `features` the user agrees that all heads are left out.
        adapters: What the checkpoints state, by the adapters' names.
        config: Config of the base model.

    Raises:
        InputError: A task is not supported, or tasks contradict each other.
    """
    if asked != AUTO and tasks.get(asked).name == "features":
        return asked
    for name, one in adapters.items():
        refuse_unserved(name, one)
        if one.task is None and one.head and asked == AUTO:
            raise InputError(
                f"adapter {name}: its task head ({', '.join(one.head)}) does not tell the task of a "
                f"{config.get('model_type')} model; choose one with --task"
            )
    if asked != AUTO:
        for name, one in adapters.items():
            refuse_contradiction(name, one, asked, f"--task {asked}")
        return asked
    found = {name: one.task for name, one in adapters.items() if one.task is not None}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name}: {task}" for name, task in found.items())
        raise InputError(f"--task auto: the adapters were trained for different tasks ({listed})")
    return next(iter(found.values()), None)


def refuse_unserved(name: str, one: StatedTask) -> None:
    """Raises InputError for an adapter with a head that no graph can have."""
    if one.task is not None and one.task in tasks.UNSERVED:
        raise InputError(f"adapter {name}: {one.source}: found {tasks.unserved(one.task)}")
    if one.wrong is not None:
        raise InputError(f"adapter {name}: {one.wrong}; --task features exports the body without a head")
    if one.unknown is not None:
        raise InputError(
            f"adapter {name}: {one.unknown}: expected a head of {', '.join(_CLASSES)} or a language model, found one "
            "that is not served; --task features exports the body without the head"
        )


def refuse_contradiction(name: str, one: StatedTask, task: str, whose: str) -> None:
    """Raises InputError for an adapter that states another task than `task`, which `whose` asks for."""
    if one.task not in (None, task):
        raise InputError(
            f"adapter {name}: was trained for {one.task} ({one.source}), which contradicts {whose}"
            + ("; --task features exports the body without the head" if one.head else "")
        )


def _path(module: str, info: ModelInfo) -> str:
    return strip_prefix(canonical(info.model_type, module), info.prefix)


def _stated_by_head(checkpoint: Checkpoint) -> StatedTask:
    own = checkpoint.sidecar.get("task")
    said = heads.task_of(checkpoint)
    head = head_modules(checkpoint)
    if own is not None:
        return StatedTask(str(own), f"task {own!r} in adapter_export.json", head)
    if not head:
        return StatedTask()
    config = checkpoint.head_config.get("config")
    kind = "head_type" if isinstance(config, dict) else "model_class"
    value = (config if isinstance(config, dict) else checkpoint.head_config).get(kind)
    source = f"{kind} {shortened(value)} in head_config.json"
    return StatedTask(said, source, head, unknown=source if said is None else None)


def _of_head(checkpoint: Checkpoint, head: tuple[str, ...], config: Mapping[str, Any]) -> str | None:
    """Returns the task that layers of these names are for; None if the names do not decide it."""
    layers = [module for module in head if module not in OUTPUT_LAYERS]
    if not layers:
        return None if not head else "seq2seq-lm" if config.get("is_encoder_decoder") else "causal-lm"
    only = [_ONLY[layer.partition(".")[0]] for layer in layers if layer.partition(".")[0] in _ONLY]
    if only:
        return only[0]
    if layers == ["score"]:
        # In decoders, classifiers of texts have no bias, and classifiers of tokens have one.
        has_bias = any(name.endswith("score.bias") for name in checkpoint.tensors)
        return "token-classification" if has_bias else "text-classification"
    saved = tasks.of_config(config)
    # Layers of these names may also classify tokens: then the class that the base model was saved from decides.
    return saved if saved in tasks.UNSERVED else _of_classifier(layers, config)


def _of_classifier(layers: list[str], config: Mapping[str, Any]) -> str | None:
    known = facts(_type(config)).heads
    for task, own in known.items():
        if own.layers[-1] in layers and set(layers) <= set(own.layers):
            return task
    if known:
        # Here the classifier of whole texts has other layers, so a single layer acts on each token.
        return "token-classification" if layers == ["classifier"] else None
    if any(layer.partition(".")[0] != "classifier" for layer in layers):
        return None
    if _reads_images(config) or "vision_config" in config:
        return "image-classification"
    saved = tasks.of_config(config)
    return saved if tasks.is_labelled(saved) else "text-classification" if len(layers) > 1 else None


def _type(config: Mapping[str, Any]) -> str:
    return str(config.get("model_type"))


def _reads_images(config: Mapping[str, Any]) -> bool:
    """Returns whether the base model reads images only."""
    if heads := facts(_type(config)).heads:
        return "image-classification" in heads
    return not {"vocab_size", "text_config"} & set(config) and bool({"image_size", "num_channels"} & set(config))
