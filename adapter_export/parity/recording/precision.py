"""How a model is run in float64 throughout, and how its rounding is varied."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@contextlib.contextmanager
def everything_in_float64() -> Iterator[None]:
    """A context in which no PyTorch function is asked for float32: it is given float64 in its place, and makes it where
    it is asked for nothing.

    Loading a model in float64 is not enough: norms, rotary positions and softmax of many models cast to float32 in
    their own code. Only the forward pass belongs in here: constants that a model stores in float32 are part of it.
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
    """A context in which every layer with weights of its own gives each of its numbers higher or lower by `step` of it,
    at random, as another order of sums might: Monte Carlo arithmetic (Parker 1997, UCLA CSD-970002).

    How far the outputs then are from R is what the dtype can tell of these inputs, more surely than one run's luck.
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
