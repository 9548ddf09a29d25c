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
    """Group `<module>.weight` and `<module>.bias` into layers, in the model's order where the model has that head.

    optional: layers of the model's head that may be absent: there the head goes on with the base model's own. The last
    layer, which has the labels, never may.

    Raises InputError for anything that is no linear layer of a head: a stray tensor, a module inside the base model,
    a missing weight, sizes that do not fit each other; and for an absent layer that the base model has not either.
    """
    layers = {}
    for module in {name.rpartition(".")[0] for name in tensors}:
        kinds = {name.rpartition(".")[2] for name in tensors if name.rpartition(".")[0] == module}
        # A class that is its own base model (CLIP's for images) has its head among its modules.
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
        # Without the model's word for it: inner layers are square, and the labels come last.
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
