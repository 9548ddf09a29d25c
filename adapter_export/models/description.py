"""Names and sizes of a loaded model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapter_export import tasks
from adapter_export.architectures.layers import called_by_row
from adapter_export.modelinfo import HEAD_ACTIVATION, EmbeddingTable, Kernel, ModelInfo

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def hidden_size(config: Any) -> int:
    """Returns the number of features of a model's hidden states; 0 if its stages differ and its config names none."""
    return int(getattr(config, "hidden_size", None) or 0)


def describe(module: PreTrainedModel, sha256: str = "") -> ModelInfo:
    """Returns names and sizes of a loaded model.

    Args:
        module: The model.
        sha256: Digest of its weights.
    """
    import torch
    from torch import nn
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D

    base = module.base_model
    config = module.config.get_text_config()
    modules: dict[str, int] = {}
    inputs: dict[str, int] = {}
    convolutions: dict[str, int] = {}
    kernels: dict[str, Kernel] = {}
    embeddings: dict[str, EmbeddingTable] = {}
    # Models that consist of several models (CLIP) have a hidden size in each.
    widths: dict[str, int] = {}
    for name, child in base.named_modules():
        own = child.config.get_text_config() if isinstance(child, PreTrainedModel) else None
        widths[name] = hidden_size(own) if own is not None else widths[name.rpartition(".")[0]]
        if isinstance(child, nn.Linear):
            inputs[name], modules[name] = child.in_features, child.out_features
        elif isinstance(child, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            inputs[name], modules[name] = child.in_channels, child.out_channels
            convolutions[name] = len(child.kernel_size)
            if type(child).forward in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward):
                kernels[name] = _kernel(child)
        elif isinstance(child, nn.Embedding) and (table := _table(name, child)) is not None:
            embeddings[name], modules[name] = table, child.embedding_dim
        elif isinstance(child, Conv1D):
            inputs[name], modules[name] = child.weight.shape[0], child.weight.shape[1]
        elif name:
            weight = getattr(child, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.ndim == 1:  # a norm
                modules[name] = len(weight)
            else:
                modules[name] = widths[name]
    labelled = tasks.is_labelled(tasks.of_architecture(type(module).__name__))
    bodies = [name for name, child in module.named_modules() if name and isinstance(child, PreTrainedModel)]
    head = [
        name
        for name, child in module.named_modules()
        if labelled and isinstance(child, nn.Linear) and not any(inside(name, body) for body in bodies)
    ]
    return ModelInfo(
        model_type=str(module.config.model_type),
        architecture=type(module).__name__,
        prefix=module.base_model_prefix,
        nested=base is not module,
        hidden_size=hidden_size(config),
        modules=modules,
        inputs=inputs,
        head=tuple(head),
        convolutions=convolutions,
        kernels=kernels,
        embeddings=embeddings,
        sha256=sha256,
        head_activation=str(getattr(module.config, HEAD_ACTIVATION, "")),
    )


def _kernel(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Kernel:
    before = after = [0] * len(layer.kernel_size)
    if layer.padding == "same":
        # PyTorch gives the odd zero to the end. LoRA's own convolution is not dilated.
        before = [(size - 1) // 2 for size in layer.kernel_size]
        after = [size // 2 for size in layer.kernel_size]
    elif not isinstance(layer.padding, str):
        before = after = list(layer.padding)
    dilated = any(step > 1 for size, step in zip(layer.kernel_size, layer.dilation, strict=True) if size > 1)
    plain = not dilated and (layer.padding_mode == "zeros" or not any((*before, *after)))
    return Kernel(tuple(layer.kernel_size), tuple(layer.stride), (*before, *after), layer.groups, plain)


def _table(name: str, layer: nn.Embedding) -> EmbeddingTable | None:
    """Returns an embedding that is called with the numbers of its rows; None for any other."""
    from torch import nn

    # Scaled embeddings of transformers have this attribute.
    scale = getattr(layer, "embed_scale", None)
    if not called_by_row(name) or (scale is None and type(layer).forward is not nn.Embedding.forward):
        return None
    return EmbeddingTable(layer.num_embeddings, 1.0 if scale is None else float(scale))


def inside(name: str, prefix: str) -> bool:
    """Whether a module is the one at path `prefix` or inside of it."""
    return name == prefix or name.startswith(f"{prefix}.")
