"""Rotary positions whose frequencies depend on the length of the text.

LongRoPE has two sets of factors: for texts up to `original_max_position_embeddings` tokens, and for longer ones.
transformers chooses by the longest row of a batch. But the outputs of a row should be the same as in a batch of its
own. Therefore, while a model is traced, the factors of each row are chosen by its own last position.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adapter_export.architectures.registry import facts
from adapter_export.models.base_model import BaseModel

if TYPE_CHECKING:
    import torch
    from torch import nn

LONGROPE = "longrope"


def rotary_border(module: nn.Module) -> int | None:
    """Returns the number of tokens of the longest text with the short factors of LongRoPE; None without LongRoPE."""
    borders = [
        int(_parameters(part, layer)["original_max_position_embeddings"])
        for part in module.modules()
        for layer, kind in rotary_kinds(part).items()
        if kind == LONGROPE
    ]
    return min(borders, default=None)


def reread_at(base: BaseModel) -> int | None:
    """Returns the number of tokens beyond which transformers' `generate` reads the complete text again.

    It does so to apply the long factors. None for models with which it keeps the cache.
    """
    return rotary_border(base.module) if facts(base.info.model_type).rereads else None


@contextmanager
def each_row_alone(model: Any) -> Iterator[None]:
    """Inside the block, each row of a batch has its own factors of LongRoPE.

    Positions are counted from the first token of each row, also if the model gets an `attention_mask` but no
    `position_ids`.
    """
    rotary = [part for part in model.modules() if LONGROPE in rotary_kinds(part).values()]
    changed = [*rotary, *([model.base_model] if rotary else [])]
    try:
        for part in rotary:
            part.forward = _by_row(part)
        if rotary:
            model.base_model.forward = _counting(model.base_model.forward)
        yield
    finally:
        for part in changed:
            part.__dict__.pop("forward", None)


def rotary_kinds(module: nn.Module) -> dict[str | None, str]:
    """Returns the kinds of rotary frequencies of a rotary module, by type of layer.

    The key is None if all layers share one kind. The result is empty for other modules.
    """
    kind = getattr(module, "rope_type", None)
    if isinstance(kind, Mapping):
        return {str(layer): str(own) for layer, own in kind.items()}
    return {None: kind} if isinstance(kind, str) and hasattr(module, "config") else {}


def _parameters(module: Any, layer: str | None) -> Mapping[str, Any]:
    found: Mapping[str, Any] = module.config.rope_parameters
    return found if layer is None else found[layer]


class _With:
    """A module in which some attributes have other values."""

    def __init__(self, module: nn.Module, **values: Any) -> None:
        self.__dict__.update(values)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _by_row(module: Any) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Returns the module's forward with separate factors for each row."""
    original = module.forward
    # Without the decorator of transformers, which chooses the factors for the complete batch.
    plain = inspect.unwrap(type(module).forward)
    kinds = rotary_kinds(module)

    def forward(x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None) -> tuple[torch.Tensor, ...]:
        import torch

        more = {} if layer_type is None else {"layer_type": layer_type}
        if kinds[layer_type] != LONGROPE:
            found: tuple[torch.Tensor, ...] = original(x, position_ids, **more)
            return found
        parameters = _parameters(module, layer_type)
        long = (position_ids.amax(dim=-1) >= parameters["original_max_position_embeddings"])[:, None, None]
        if "long_mscale" in parameters:
            return _scaled(module, x, position_ids, long)
        name = "inv_freq" if layer_type is None else f"{layer_type}_inv_freq"
        pairs = (
            plain(_With(module, **{name: frequencies}), x, position_ids, **more)
            for frequencies in _frequencies(module, layer_type, x.device)
        )
        return tuple(torch.where(long, far, near) for near, far in zip(*pairs, strict=True))

    return forward


def _frequencies(module: Any, layer: str | None, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the frequencies of short and of long texts."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    border = _parameters(module, layer)["original_max_position_embeddings"]
    prefix = "" if layer is None else f"{layer}_"
    long, _ = ROPE_INIT_FUNCTIONS[LONGROPE](module.config, device, seq_len=border + 1, layer_type=layer)
    return getattr(module, f"{prefix}original_inv_freq"), long


def _scaled(module: Any, x: torch.Tensor, position_ids: torch.Tensor, long: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Returns cosine and sine as in Phi-3.5-MoE.

    It always uses the frequencies of short texts, and multiplies cosine and sine by one of two numbers.
    """
    import torch

    parameters = module.config.rope_parameters
    frequencies, _ = module.rope_init_fn(module.config)
    angles = position_ids[..., None].float() * frequencies.to(device=x.device, dtype=torch.float)
    both = torch.cat((angles, angles), dim=-1)
    near, far = (torch.full_like(both[..., :1], float(parameters[name])) for name in ("short_mscale", "long_mscale"))
    scale = torch.where(long, far, near)
    return tuple((value * scale).to(x.dtype) for value in (both.cos(), both.sin()))


def _counting(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `forward` with positions computed from the mask if the caller passes none."""

    @functools.wraps(forward)
    def counting(*args: Any, **kwargs: Any) -> Any:
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim == 2 and kwargs.get("position_ids") is None:
            kwargs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        return forward(*args, **kwargs)

    return counting
