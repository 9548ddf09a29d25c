"""A base model with an adapter in PyTorch: what a bundle is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_export.checkpoints.folder import load_adapter, read_checkpoint
from adapter_export.checkpoints.stated_task import AUTO, choose_task, stated_task
from adapter_export.checkpoints.weights import model_config
from adapter_export.errors import InputError
from adapter_export.hub import local
from adapter_export.models.base_model import load_base, use_padding
from adapter_export.models.heads import with_heads
from adapter_export.models.injection import inject
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.links import follows_links

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@follows_links("model", "adapter")
def load_pytorch(
    model: str | Path,
    adapter: str | Path | None = None,
    *,
    task: str = AUTO,
    labels: Sequence[str] | None = None,
    follow_links: bool = False,
) -> PreTrainedModel:
    """Loads a base model in PyTorch, in float32, with an adapter that is not merged into its weights.

    Args:
        model: Folder of the base model, or its name in the Hugging Face hub.
        adapter: Folder of an adapter checkpoint, or its name in the hub; None for the base model alone.
        task: `auto` takes the adapter's task if it states one, else the base model's. `features` leaves a task head
            out.
        labels: Class names of the adapter's task head, in its order; None for those of the checkpoint.
        follow_links: Whether symbolic links in the two folders may lead out of them.

    Returns:
        A model of transformers, in eval mode. Its forward pass computes the adapter by hooks.

    Raises:
        InputError: The model or the adapter is broken, or they do not fit each other or the task.
    """
    folder = existing_folder(local(model, "model"), "model")
    if adapter is None:
        return load_base(folder, task).module
    path = local(adapter, "adapter")
    name, config = path.resolve().name, model_config(folder)
    found = choose_task(task, {name: stated_task(read_checkpoint(path), config)}, config)
    base = load_base(folder, found or task)
    loaded = load_adapter(path, base.info, task=base.task, leave_head=task == "features", labels=labels)
    base, complete = with_heads(base, {name: loaded})
    use_padding(base, complete)
    if base.untrained_head and not loaded.head:
        raise InputError(f"adapter {name}: expected a task head ({base.task}), as the base model has none; found none")
    inject(base.module, complete[name])
    base.module.requires_grad_(False)
    return base.module
