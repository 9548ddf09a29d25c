"""Runs a model in float64 throughout, and varies the rounding of a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@contextlib.contextmanager
def everything_in_float64() -> Iterator[None]:
    """Returns a context in which PyTorch functions use float64 wherever they are asked for float32, and by default.

    Loading a model in float64 is not enough: the code of many models casts norms, rotary positions and softmax to
    float32. Use the context for the forward pass only, not for loading: constants that a model stores in float32 are
    part of its definition.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    def widened(value: Any) -> Any:
        return torch.float64 if isinstance(value, torch.dtype) and value is torch.float32 else value

    class Float64(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            func = torch.Tensor.double if func is torch.Tensor.float else func
            return func(*map(widened, args), **{name: widened(value) for name, value in (kwargs or {}).items()})

    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Float64():
            yield
    finally:
        torch.set_default_dtype(usual)


@contextlib.contextmanager
def rounded_otherwise(module: nn.Module, step: float, seed: int) -> Iterator[None]:
    """Returns a context in which every layer with weights changes each value of its output by `step`, up or down.

    The sign is random, as the effect of another order of summation would be. This is Monte Carlo arithmetic (Parker
    1997, UCLA CSD-970002). The error of the outputs against float64 then shows the precision of the dtype for these
    inputs. The largest error of several roundings is a more reliable estimate than that of a single run.

    Args:
        module: The model.
        step: Size of the change, relative to each value.
        seed: Seed of the random signs.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def move(layer: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, torch.Tensor):
            return None
        signs = torch.randint(0, 2, output.shape, generator=generator).mul(2).sub(1)
        return output + output * (signs * step).to(output.dtype)

    layers = [layer for layer in module.modules() if next(layer.parameters(recurse=False), None) is not None]
    hooks = [layer.register_forward_hook(move) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
