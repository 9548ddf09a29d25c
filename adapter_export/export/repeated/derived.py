"""How a constant of a traced graph follows from a weight of the model.

The exporter computes some constants in advance: it transposes the weights of linear layers, and adds 1 to those of
Gemma's norms. A layer that was not traced needs the same constants, of its own weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

# What a constant may be of a weight. `like` is the shape of the constant.
_FORMS: Mapping[str, Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]] = {
    "the weight itself": lambda weight, like: weight,
    "its transpose": lambda weight, like: weight.t() if weight.ndim == 2 else weight,
    "another shape": lambda weight, like: weight.reshape(like) if weight.numel() == np.prod(like) else weight,
    "in float32": lambda weight, like: weight.float(),
    "1 more, in float32": lambda weight, like: 1.0 + weight.float(),
    "1 more": lambda weight, like: 1.0 + weight,
}


def form_of(*pairs: tuple[ir.TensorProtocol, torch.Tensor]) -> str | None:
    """Returns how constants follow from weights; None if it is not known, or not the same for all.

    Args:
        pairs: Each constant with the weight that it was computed from.
    """
    return next((form for form in _FORMS if all(_is(form, constant, weight) for constant, weight in pairs)), None)


def constant_of(form: str, weight: torch.Tensor, like: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """Returns a constant of the form, computed from the weight. Where the form allows it, no memory is copied."""
    import onnx_ir as ir

    return ir.tensor_adapters.TorchTensor(_FORMS[form](weight.detach(), tuple(like.shape.numpy())), name=name)


def _is(form: str, constant: ir.TensorProtocol, weight: torch.Tensor) -> bool:
    made = constant_of(form, weight, constant, "")
    if made.dtype != constant.dtype or made.shape != constant.shape:
        return False
    return bool(np.array_equal(made.numpy(), constant.numpy()))
