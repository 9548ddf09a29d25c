"""Loads base models in PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapter_export import tasks
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.labels import PLACEHOLDERS, class_names, has_own_head
from adapter_export.checkpoints.weights import (
    adapter_beside,
    model_config,
    quantized_name,
    refuse_quantized,
    weights_sha256,
)
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.description import describe, inside
from adapter_export.models.missing_weights import beyond_the_model, leave_out, unread_weights, whole_modules
from adapter_export.models.quiet import quiet
from adapter_export.reading.folders import check_folder, existing_folder
from adapter_export.reading.panics import is_panic

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


_log = logging.getLogger(__name__)
# Keeps transformers from looking for an adapter in the model's folder, which it would attach without being asked.
_NO_ADAPTER = {"subfolder": "no adapter is wanted here"}


@dataclass(frozen=True)
class BaseModel:
    """A base model in memory.

    Attributes:
        module: The frozen module, in eval mode.
        info: Its description.
        task: The task that it was loaded for.
        folder: The folder that it was loaded from.
        untrained_head: Whether the checkpoint lacks the task head's weights. Then they are random.
    """

    module: PreTrainedModel
    info: ModelInfo
    task: str
    folder: Path
    untrained_head: bool


def load_base(
    path: str | Path,
    task: str = "auto",
    *,
    labels: Sequence[str] | None = None,
    dtype: torch.dtype | Literal["auto"] | None = None,
) -> BaseModel:
    """Loads a model folder for a task.

    Code in the folder is never run. An adapter in the folder is not part of the base model. Modules that the checkpoint
    lacks and the task's output does not read (`ModelInfo.unread`) are no error; other outputs that read them are left
    out.

    Args:
        path: The folder.
        task: The task; `auto` takes it from the config's `architectures`.
        labels: Class names. A task with labels then has a head of that size, which is random unless the checkpoint has
            one that fits.
        dtype: Type of the weights; None is float32, `auto` the type in the checkpoint.

    Raises:
        InputError: The folder is missing or broken, the task is unknown, the model is quantized, weights do not load,
            or weights other than the task head's are missing.
    """
    import torch
    import transformers

    folder = existing_folder(path, "model")
    config_dict = model_config(folder)
    task = resolve_task(folder, config_dict, task)
    refuse_quantized(folder, config_dict)
    if adapter_beside(folder):
        _log.warning(
            "model %s: an adapter lies in this folder (adapter_config.json); it is not part of the base model and is "
            "not loaded",
            folder,
        )
    auto_class = tasks.auto_class(tasks.get(task), str(config_dict.get("model_type")))
    own_head = has_own_head(config_dict, task)
    changes: dict[str, Any] = {}
    if labels is None and tasks.get(task).labelled and not own_head:
        # Class names and their number are of another task, so they do not count for this one.
        labels = PLACEHOLDERS
    if labels is not None:
        changes = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    sha256 = weights_sha256(folder)
    check_folder(folder)
    try:
        with quiet():
            module, report = getattr(transformers, auto_class).from_pretrained(
                folder,
                dtype=dtype or torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=labels is not None,
                output_loading_info=True,
                adapter_kwargs=_NO_ADAPTER,
                **changes,
            )
    except BaseException as error:  # transformers passes on any error of its backends.
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"model {folder}: cannot be loaded for {task}: {reason[:300]}") from error
    if (foreign := quantized_name(report["unexpected_keys"])) is not None:
        raise InputError(
            f"model {folder}: tensor {foreign!r}: the base model is quantized, which is not supported; use the folder "
            "with its original weights"
        )
    if beyond := beyond_the_model(module, report["unexpected_keys"]):
        _log.warning(
            "model %s: %d tensors of the checkpoint are of layers that the model, by its config, does not have, and "
            "are not loaded: %s%s",
            folder, len(beyond), ", ".join(beyond[:4]), " ..." if len(beyond) > 4 else "",
        )  # fmt: skip
    module.eval().requires_grad_(False)
    if module.dtype == torch.float64:
        # The faster implementations of experts do not support float64.
        module.set_experts_implementation("eager")
    info = describe(module, sha256)
    absent = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    # `from_pretrained` reports missing weights that are neither tied nor optional. It fills them with random values.
    in_head = {key for key in absent if key.rpartition(".")[0] in info.head}
    if not own_head:
        in_head |= {f"{name}.weight" for name in info.head}
    lost = absent - in_head - _norms_of_head(module, info)
    unread, dropped = unread_weights(module, lost, tasks.get(task).output)
    if lost := lost - unread:
        listed = sorted(lost)
        raise InputError(
            f"model {folder}: weights of {type(module).__name__} are missing from the checkpoint and would be random: "
            f"{', '.join(listed[:4])}{' ...' if len(listed) > 4 else ''}"
        )
    if dropped:
        leave_out(module, dropped)
        _log.warning(
            "model %s: output %s is left out: the checkpoint has no weights for it (%s)",
            folder,
            ", ".join(dropped),
            ", ".join(sorted(unread)),
        )
    prefix = f"{info.prefix}." if info.nested else ""
    info = replace(
        info,
        untrained=tuple(name for name in info.head if any(key.rpartition(".")[0] == name for key in in_head)),
        unread=whole_modules(module.base_model, {key.removeprefix(prefix) for key in unread}),
        labels=class_names(config_dict) if own_head and tasks.get(task).labelled else None,
    )
    return BaseModel(module, info, task, folder, untrained_head=bool(in_head))


def resolve_task(folder: Path, config: dict[str, Any], task: str) -> str:
    """Returns the task to load for. Raises InputError if `auto` finds no task, or one that is not supported."""
    if task != "auto":
        return tasks.get(task).name
    path = folder / "config.json"
    found = tasks.of_config(config)
    if found is not None and found in tasks.UNSERVED:
        raise InputError(f"{path}: field 'architectures': {config['architectures'][0]} has {tasks.unserved(found)}")
    if found is None:
        raise InputError(
            f"{path}: field 'architectures': {config.get('architectures')!r} does not tell the task; choose one of "
            f"{', '.join(tasks.TASKS)}"
        )
    return found


def use_padding(base: BaseModel, adapters: Mapping[str, Adapter]) -> None:
    """Sets the padding token of a classifier that finds the end of each text by its padding: the token of the training.

    The base model's own padding token comes first, as in training.

    Args:
        base: The base model, which is changed.
        adapters: The adapters by name.

    Raises:
        InputError: The adapters were trained with different tokens, or no token is known and the model needs one.
    """
    config = base.module.config.get_text_config()
    own = getattr(config, "pad_token_id", None)
    chosen = {name: adapter.pad_token_id for name, adapter in adapters.items() if adapter.pad_token_id is not None}
    for name, token in chosen.items():
        if own is None:
            own = config.pad_token_id = base.module.config.pad_token_id = token
        elif token != own:
            raise InputError(
                f"adapter {name}: was trained with padding token {token}, but the base model, or another adapter, pads "
                f"with {own}: the end of a text is found by it"
            )
    if own is None and base.task == "text-classification" and base.info.head == ("score",):
        raise InputError(
            f"{base.folder / 'config.json'}: field 'pad_token_id' is missing: {base.info.architecture} finds the end "
            "of each text by it; set it to the token that training padded with (often eos_token_id: "
            f"{getattr(config, 'eos_token_id', None)})"
        )


def _norms_of_head(module: nn.Module, info: ModelInfo) -> set[str]:
    """Returns the parameters of norms in a task head. Their initial values are always the same, so they may be
    missing.
    """
    return {
        f"{name}.{key}"
        for name, child in module.named_modules()
        if info.head and not inside(name, info.prefix)
        if (weight := dict(child.named_parameters(recurse=False)).get("weight")) is not None and weight.ndim == 1
        for key, _ in child.named_parameters(recurse=False)
    }
