"""Folds an adapter into the weights of a model in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import CannotMerge
from adapter_export.merging.rounding import round_to
from adapter_export.methods.contract import SiteAdapter
from adapter_export.sites import Port, Site

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


def merge_into(model: PreTrainedModel, adapter: Adapter) -> list[str]:
    """Changes the model's weights so that the model computes what it computed with the adapter.

    Each weight becomes round(f(float64(W), float64(tensors))) in its own dtype, with the operator's `merge` as f. The
    task head is not changed (see `injection.load_head`). Either all weights are changed, or none.

    Returns:
        Names of the changed parameters.

    Raises:
        CannotMerge: The method is not linear, a module has no weights, another module shares its weights, or a result
            is not finite in the dtype of the weights.
    """
    users = _users(model)
    by_module: dict[str, list[tuple[Site, SiteAdapter]]] = {}
    for site, site_adapter in adapter.sites.items():
        if (reason := site_adapter.operator.unmergeable(site.port)) is not None:
            raise CannotMerge(f"method {adapter.method!r}: site {site.name}: {reason}")
        by_module.setdefault(site.module, []).append((site, site_adapter))
    changes: dict[str, tuple[nn.Parameter, torch.Tensor]] = {}
    for path, site_adapters in by_module.items():
        module, (site, _) = model.base_model.get_submodule(path), site_adapters[0]
        for kind, parameter, value in _folded(site, module, site_adapters):
            name = f"{path}.{kind}"
            if others := [user for user in users[id(parameter)] if user is not module]:
                raise CannotMerge(
                    f"site {site.name}: {name} is tied to {len(others)} other module(s) of the model, which must not "
                    "change; save the model with a weight of its own for each, or use --mode swappable"
                )
            changes[name] = (parameter, _rounded(site, name, value, parameter.dtype))
    names = list(changes)
    while changes:
        # In place, one at a time, so that the new weights take no further memory.
        target, new = changes.popitem()[1]
        target.data.copy_(new)
    return names


def _folded(
    site: Site, module: nn.Module, site_adapters: Sequence[tuple[Site, SiteAdapter]]
) -> Iterator[tuple[str, nn.Parameter, np.ndarray]]:
    """Yields the new weight and bias of a layer with all operators at it: name in the layer, parameter, new values.

    A bias that no operator changes is left out.
    """
    weight, bias = _layer(site, module)
    w64: np.ndarray = weight.detach().double().numpy()
    b64: np.ndarray | None = None if bias is None else bias.detach().double().numpy()
    transposed, before = _is_transposed(module), b64
    w64 = w64.T if transposed else w64
    for here, site_adapter in site_adapters:
        w64, b64 = site_adapter.operator.merge(here.port, w64, b64, site_adapter.exact)
        if bias is None and b64 is not None:
            raise CannotMerge(f"site {here.name}: the layer has no bias to fold the adapter's into")
    yield "weight", weight, w64.T if transposed else w64
    if bias is not None and b64 is not None and b64 is not before:
        yield "bias", bias, b64


def _rounded(site: Site, name: str, value: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    import torch

    rounded = round_to(np.ascontiguousarray(value), dtype)
    if not torch.isfinite(rounded).all():
        raise CannotMerge(f"site {site.name}: {name} is not finite in {dtype} after the merge")
    return rounded


def _layer(site: Site, module: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
    from torch import nn

    foldable = isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) or _is_transposed(module)
    if not foldable or (isinstance(module, nn.Embedding) and site.port is not Port.BRANCH):
        raise CannotMerge(f"site {site.name}: {type(module).__name__} is no linear layer or convolution to fold into")
    weight, bias = module.weight, getattr(module, "bias", None)
    if not isinstance(weight, nn.Parameter):
        raise CannotMerge(f"site {site.name}: the weight is computed from others, as by weight_norm; nothing to change")
    if not weight.dtype.is_floating_point or weight.dtype.itemsize < 2:
        raise CannotMerge(f"site {site.name}: weights are quantized ({weight.dtype}); merge into the original weights")
    return weight, bias if isinstance(bias, nn.Parameter) else None


def _is_transposed(module: nn.Module) -> bool:
    """Returns whether the weight is stored as (in, out)."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (Conv1D, nn.Embedding))


def _users(model: PreTrainedModel) -> dict[int, list[nn.Module]]:
    """Returns the modules that hold each parameter, by the parameter's identity."""
    users: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), []).append(module)
    return users
