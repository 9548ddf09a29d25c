"""Folding an adapter into the weights of a model in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import CannotMerge
from adapter_export.merging.rounding import round_to
from adapter_export.sites import Site

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


def merge_into(model: PreTrainedModel, adapter: Adapter) -> list[str]:
    """Change the model's weights so that it computes what it computed with the adapter; returns the changed names.

    Each weight becomes round(f(float64(W), float64(tensors))) in its own dtype, with the operator's `merge` as f; the
    task head is not touched (see `injection.load_head`). Nothing is changed unless everything can be.

    Raises CannotMerge, with the reason: a method that is not linear, a module without weights, weights shared with
    another module, a result that is not finite in the weights' dtype.
    """
    users = _users(model)
    changes: dict[str, tuple[nn.Parameter, torch.Tensor]] = {}
    for site, block in adapter.blocks.items():
        if (reason := block.operator.unmergeable(site.port)) is not None:
            raise CannotMerge(f"method {adapter.method!r}: {reason}")
        module = model.base_model.get_submodule(site.module)
        weight, bias = _linear(site, module)
        transposed = _is_conv1d(module)
        w64 = weight.detach().double().numpy()
        b64 = None if bias is None else bias.detach().double().numpy()
        new_weight, new_bias = block.operator.merge(site.port, w64.T if transposed else w64, b64, block.tensors)
        results = [("weight", weight, new_weight.T if transposed else new_weight)]
        if bias is not None and new_bias is not None and new_bias is not b64:
            results.append(("bias", bias, new_bias))
        for kind, parameter, value in results:
            name = f"{site.module}.{kind}"
            if others := [user for user in users[id(parameter)] if user is not module]:
                raise CannotMerge(
                    f"site {site.name}: {name} is tied to {len(others)} other module(s) of the model, which must not "
                    "be scaled; save the model with a weight of its own for each, or use --mode swappable"
                )
            if name in changes:
                raise CannotMerge(f"site {site.name}: {name} would be scaled twice by one adapter")
            changes[name] = (parameter, _rounded(site, name, value, parameter.dtype))
    names = list(changes)
    while changes:
        # In place, one at a time: the old weights' memory is the new ones'.
        parameter, value = changes.popitem()[1]
        parameter.data.copy_(value)
    return names


def _rounded(site: Site, name: str, value: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    import torch

    rounded = round_to(np.ascontiguousarray(value), dtype)
    if not torch.isfinite(rounded).all():
        raise CannotMerge(f"site {site.name}: {name} is not finite in {dtype} after the merge")
    return rounded


def _linear(site: Site, module: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
    from torch import nn

    if not isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)) and not _is_conv1d(module):
        raise CannotMerge(f"site {site.name}: {type(module).__name__} is no linear layer or convolution to fold into")
    weight, bias = module.weight, module.bias
    assert isinstance(weight, nn.Parameter)
    if not weight.dtype.is_floating_point or weight.dtype.itemsize < 2:
        raise CannotMerge(f"site {site.name}: weights are quantized ({weight.dtype}); merge into the original weights")
    return weight, bias if isinstance(bias, nn.Parameter) else None


def _is_conv1d(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _users(model: PreTrainedModel) -> dict[int, list[nn.Module]]:
    """For each parameter, by identity, the modules that hold it."""
    users: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), []).append(module)
    return users
