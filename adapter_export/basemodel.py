"""Loading base models in PyTorch, and describing them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapter_export import tasks
from adapter_export.checkpoints.files import existing_folder, read_json, weights_sha256
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class BaseModel:
    """A base model in memory: the frozen module, in eval mode, and its description.

    untrained_head: the task head's weights are not in the checkpoint; what the module holds there is random.
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
    """Load a model folder for a task; `auto` reads the config's `architectures`.

    labels: class names; gives a labelled task a head of that size, which is random unless the checkpoint has one that
    fits. dtype: None loads float32, `auto` what the checkpoint holds. Code in the folder is never run.

    Raises InputError for a missing or broken folder, an unknown task, weights that do not load, and weights missing
    for anything but the task head.
    """
    import torch
    import transformers

    folder = existing_folder(path, "model")
    config_dict = read_json(folder / "config.json")
    task = resolve_task(folder, config_dict, task)
    auto_class = tasks.auto_class(tasks.get(task), str(config_dict.get("model_type")))
    changes: dict[str, Any] = {}
    if labels is not None:
        changes = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    sha256 = weights_sha256(folder)
    try:
        with quiet():
            module, report = getattr(transformers, auto_class).from_pretrained(
                folder,
                dtype=dtype or torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=labels is not None,
                output_loading_info=True,
                **changes,
            )
    except Exception as error:  # transformers raises what its backends raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"model {folder}: cannot be loaded for {task}: {reason[:300]}") from error
    module.eval().requires_grad_(False)
    if module.dtype == torch.float64:
        # The faster ways to run experts know no float64.
        module.set_experts_implementation("eager")
    info = describe(module, sha256)
    absent = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    # A checkpoint ties or omits only what `from_pretrained` does not report; the rest it would fill with random values.
    in_head = {key for key in absent if key.rpartition(".")[0] in info.head}
    if lost := sorted(absent - in_head - _norms_of_head(module, info)):
        raise InputError(
            f"model {folder}: weights of {type(module).__name__} are missing from the checkpoint and would be random: "
            f"{', '.join(lost[:4])}{' ...' if len(lost) > 4 else ''}"
        )
    untrained = tuple(name for name in info.head if any(key.rpartition(".")[0] == name for key in in_head))
    return BaseModel(module, replace(info, untrained=untrained), task, folder, untrained_head=bool(in_head))


def resolve_task(folder: Path, config: dict[str, Any], task: str) -> str:
    """The task to load for; raises InputError when `auto` cannot tell."""
    if task != "auto":
        return tasks.get(task).name
    if (found := tasks.of_config(config)) is None:
        raise InputError(
            f"{folder / 'config.json'}: field 'architectures': {config.get('architectures')!r} does not tell the task; "
            f"choose one of {', '.join(tasks.TASKS)}"
        )
    return found


def describe(module: PreTrainedModel, sha256: str = "") -> ModelInfo:
    """Names and sizes of a loaded model."""
    import torch
    from torch import nn
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D

    base = module.base_model
    config = module.config.get_text_config()
    modules: dict[str, int] = {}
    inputs: dict[str, int] = {}
    convolutions: dict[str, int] = {}
    # Models of models (CLIP) have a width in each.
    widths: dict[str, int] = {}
    for name, child in base.named_modules():
        own = child.config.get_text_config() if isinstance(child, PreTrainedModel) else None
        widths[name] = int(own.hidden_size) if own is not None else widths[name.rpartition(".")[0]]
        if isinstance(child, nn.Linear):
            inputs[name], modules[name] = child.in_features, child.out_features
        elif isinstance(child, (nn.Conv2d, nn.Conv3d)):
            inputs[name], modules[name] = child.in_channels, child.out_channels
            convolutions[name] = len(child.kernel_size)
        elif isinstance(child, Conv1D):
            inputs[name], modules[name] = child.weight.shape[0], child.weight.shape[1]
        elif name:
            weight = getattr(child, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.ndim == 1:  # a norm
                modules[name] = len(weight)
            else:
                modules[name] = widths[name]
    task = tasks.of_architecture(type(module).__name__)
    labelled = task is not None and tasks.get(task).labelled
    bodies = [name for name, child in module.named_modules() if name and isinstance(child, PreTrainedModel)]
    head = [
        name
        for name, child in module.named_modules()
        if labelled and isinstance(child, nn.Linear) and not any(_inside(name, body) for body in bodies)
    ]
    return ModelInfo(
        model_type=str(module.config.model_type),
        architecture=type(module).__name__,
        prefix=module.base_model_prefix,
        nested=base is not module,
        hidden_size=int(config.hidden_size),
        modules=modules,
        inputs=inputs,
        head=tuple(head),
        convolutions=convolutions,
        sha256=sha256,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice from transformers: what matters of a load is checked and raised here."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _norms_of_head(module: nn.Module, info: ModelInfo) -> set[str]:
    """Parameters of the norms in a task head: they start with the same values every time, so none need be stored."""
    return {
        f"{name}.{key}"
        for name, child in module.named_modules()
        if info.head and not _inside(name, info.prefix)
        if (weight := dict(child.named_parameters(recurse=False)).get("weight")) is not None and weight.ndim == 1
        for key, _ in child.named_parameters(recurse=False)
    }


def _inside(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
