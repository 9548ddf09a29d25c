"""The task head of a PyTorch model: reads it, completes that of an adapter, and puts it into the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_export.checkpoints.adapter import LM_HEAD, Adapter, HeadLayer
from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Returns a copy as float32, or as float64 if the tensor is float64."""
    import torch

    detached = tensor.detach().cpu()
    array: np.ndarray = (detached if detached.dtype == torch.float64 else detached.float()).numpy().copy()
    return array


def read_head(model: PreTrainedModel, names: tuple[str, ...]) -> dict[str, HeadLayer]:
    """Returns the current linear layers of the task head."""
    layers = {}
    for name in names:
        layer = model.get_submodule(name)
        layers[name] = HeadLayer(to_numpy(layer.weight), None if layer.bias is None else to_numpy(layer.bias))
    return layers


def complete_head(model: PreTrainedModel, names: tuple[str, ...], adapter: Adapter) -> Adapter:
    """Returns the adapter with a whole task head: layers that it lacks are the model's own.

    Args:
        model: The model.
        names: Paths of the head's layers.
        adapter: The adapter.

    Raises:
        InputError: The adapter repeats the model's `lm_head`, or weights of the base model, with other values.
    """
    for module, weight in adapter.repeated.items():
        _check_repeated(model, module, weight)
    if LM_HEAD in adapter.head and model.get_output_embeddings() is not None:
        _check_lm_head(model, adapter.head[LM_HEAD])
    if not adapter.head or set(names) <= set(adapter.head):
        return adapter
    own = read_head(model, names)
    return replace(adapter, head={name: adapter.head.get(name, own[name]) for name in names})


def with_heads(base: BaseModel, adapters: Mapping[str, Adapter]) -> tuple[BaseModel, dict[str, Adapter]]:
    """Returns the base model with all layers that any of the adapters brings, and each adapter with all of these
    layers.

    A head may begin with the base model's pooler (`ModelInfo.pooler`), which is then swapped like the other layers.

    Raises:
        InputError: See `complete_head`.
    """
    head, pooler = base.info.head, base.info.pooler
    if head and any(pooler in adapter.head for adapter in adapters.values()):
        head = (pooler, *head)
    extended = replace(base, info=replace(base.info, head=head))
    return extended, {name: complete_head(base.module, head, adapter) for name, adapter in adapters.items()}


def _check_repeated(model: PreTrainedModel, module: str, weight: np.ndarray) -> None:
    import torch

    own = getattr(model.base_model.get_submodule(module), "weight", None)
    if not isinstance(own, torch.Tensor):
        raise InputError(f"{module!r}: saved with the adapter, and the base model has no weight there")
    if tuple(own.shape) != weight.shape or not torch.equal(torch.tensor(weight, dtype=own.dtype), own.cpu()):
        raise InputError(different(module, weight.shape, tuple(own.shape)))


def different(module: str, found: tuple[int, ...], own: tuple[int, ...]) -> str:
    """Returns the message for a part of the base model that an adapter's checkpoint holds with other values."""
    how = "differs from the base model's own" if found == own else f"has shape {found}, and the base model's {own}"
    return (
        f"{module!r}, saved with the adapter, {how}: an adapter that changes it is not supported; save the base model "
        "with it (after resizing the vocabulary, say) and give that as --model"
    )


def _check_lm_head(model: PreTrainedModel, layer: HeadLayer) -> None:
    import torch

    own = model.get_output_embeddings()
    same = torch.equal(torch.tensor(layer.weight, dtype=own.weight.dtype, device=own.weight.device), own.weight)
    if not same or (
        layer.bias is not None and (own.bias is None or not np.array_equal(layer.bias, to_numpy(own.bias)))
    ):
        raise InputError("task head 'lm_head': differs from the base model's own, which is not supported")


def load_head(model: PreTrainedModel, adapter: Adapter) -> None:
    """Puts the adapter's task head into the model, and resizes its last layer to the number of the adapter's labels.

    A head without the pooler (`ModelInfo.pooler`) uses the base model's own, even if the head before it had another. A
    causal model's `lm_head`, which some checkpoints repeat, must equal the model's own.

    Raises:
        InputError: The head's layers do not fit the model's.
    """
    import torch

    own = _own_layers(model)
    for name in [name for name in own if adapter.head and name not in adapter.head]:
        layer = model.get_submodule(name)
        layer.weight, layer.bias = own.pop(name)

    last = next(reversed(list(adapter.head)), None)
    for name, layer in adapter.head.items():
        if name == LM_HEAD and model.get_output_embeddings() is not None:
            _check_lm_head(model, layer)
            continue
        try:
            target = model.get_submodule(name)
        except AttributeError:
            raise InputError(f"task head {name!r}: {type(model).__name__} has no such module") from None
        weight = torch.tensor(layer.weight, dtype=target.weight.dtype, device=target.weight.device)
        if weight.shape[1] != target.weight.shape[1]:
            raise InputError(
                f"task head {name!r}: expected {target.weight.shape[1]} inputs for this base model, found "
                f"{weight.shape[1]}"
            )
        if name != last and weight.shape != target.weight.shape:
            raise InputError(
                f"task head {name!r}: expected {target.weight.shape[0]} outputs for this base model, found "
                f"{weight.shape[0]}"
            )
        bias = torch.zeros(weight.shape[0]) if layer.bias is None else torch.tensor(layer.bias)
        if layer.bias is not None and target.bias is None:
            raise InputError(f"task head {name!r}: has a bias, but the model's layer has none")
        if _is_inside(model, name):
            own.setdefault(name, (target.weight, target.bias))
        target.weight = torch.nn.Parameter(weight, requires_grad=False)
        target.out_features = weight.shape[0]
        if target.bias is not None:
            target.bias = torch.nn.Parameter(bias.to(weight), requires_grad=False)
    if adapter.num_labels is not None:
        labels = adapter.label_names
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: i for i, label in enumerate(labels)}
        if hasattr(model, "num_labels"):
            model.num_labels = len(labels)


def _is_inside(model: PreTrainedModel, name: str) -> bool:
    """Returns whether the layer is part of the base model, inside the task class."""
    return model.base_model is not model and name.startswith(f"{model.base_model_prefix}.")


def _own_layers(model: PreTrainedModel) -> dict[str, tuple[Any, Any]]:
    """Returns weights and biases of those layers of the base model that heads have replaced, by path."""
    own: dict[str, tuple[Any, Any]] = model.__dict__.setdefault("_adapter_export_own_layers", {})
    return own
