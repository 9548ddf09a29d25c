"""Task heads in checkpoints: linear layers outside the base model, by module path."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from adapter_export.checkpoints.adapter import LM_HEAD, OUTPUT_LAYERS, Checkpoint, HeadLayer
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import strip_prefix

_WEIGHT_RANK = 2


def head_layers(
    checkpoint: Checkpoint, tensors: Mapping[str, np.ndarray], info: ModelInfo, optional: Collection[str] = ()
) -> dict[str, HeadLayer]:
    """Makes layers of tensors named `<module>.weight` and `<module>.bias`, in the order of the model's head if it has
    one.

    Args:
        checkpoint: The checkpoint.
        tensors: Tensors of the head.
        info: Description of the base model.
        optional: Layers of the model's head that may be absent, where the base model's own layer is used. The last
            layer, which has the labels, is never optional.

    Raises:
        InputError: A tensor belongs to no linear layer of a head, a module is inside the base model, a weight is
            missing, sizes do not fit each other, or an absent layer is not in the base model either.
    """
    layers = {}
    for module in {name.rpartition(".")[0] for name in tensors}:
        kinds = {name.rpartition(".")[2] for name in tensors if name.rpartition(".")[0] == module}
        # A class that is its own base model (CLIP's for images) has its head among the modules of the base model.
        own = module in (*OUTPUT_LAYERS, info.pooler, *info.head)
        if not own and strip_prefix(module, info.prefix) in info.modules:
            raise InputError(
                f"{checkpoint.folder}: tensor {module + '.' + min(kinds)!r} replaces a module of the base model; only "
                "a task head outside it can be swapped"
            )
        least = {"weight", "bias"} if module == info.pooler else {"weight"}
        if not least <= kinds <= {"weight", "bias"}:
            raise InputError(
                f"{checkpoint.folder}: module {module!r}: expected a task head's weight and bias, found {sorted(kinds)}"
            )
        weight, bias = tensors[f"{module}.weight"], tensors.get(f"{module}.bias")
        if weight.ndim != _WEIGHT_RANK or (bias is not None and bias.shape != weight.shape[:1]):
            found = f"weight {weight.shape}" + ("" if bias is None else f", bias {bias.shape}")
            raise InputError(f"{checkpoint.folder}: module {module!r}: expected a linear layer, found {found}")
        layers[LM_HEAD if module in OUTPUT_LAYERS else module] = HeadLayer(weight, bias)
    if not info.head or not layers:
        # Where the model has no such head, inner layers must be square, and the layer with the labels is the last.
        return dict(sorted(layers.items(), key=lambda item: (len(set(item[1].weight.shape)) > 1, item[0])))
    head = (info.pooler, *info.head) if info.pooler in layers and info.pooler not in info.head else info.head
    absent = set(head) - set(layers)
    if set(layers) - set(head) or absent - set(optional) or info.head[-1] in absent:
        raise InputError(
            f"{checkpoint.folder}: task head: expected {', '.join(info.head)} for {info.architecture}, found "
            f"{', '.join(sorted(layers))}"
        )
    if lost := sorted(absent & set(info.untrained)):
        raise InputError(
            f"{checkpoint.folder}: task head: layer {lost[0]!r} was not saved with the adapter, and the base model has "
            f"no trained one; train again with modules_to_save={sorted(info.head)} in PEFT's config"
        )
    return {module: layers[module] for module in head if module in layers}
