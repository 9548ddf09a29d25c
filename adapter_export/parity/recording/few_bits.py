"""Rounds the weights of a PyTorch model to 8 or 4 bits, to compute T for a graph with such weights.

Weights: each block of 32 values of a row has one float32 scale, and w = scale * (q - z) with unsigned codes q and z =
128 or 8, half of their range. Activations that are multiplied with them are rounded to 8 bits, in blocks of 32 along
the features, as ONNX Runtime's MatMulNBits does at accuracy level 4: x' = scale * round(x / scale), scale = max|x| /
127. This code is independent of the export, so that the export can be compared with it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

BLOCK = 32
# Relative error of a product caused by rounding its operands, used to vary the rounding of T. Each operand is rounded
# to steps of 1/127 of the largest value in its block, which is about three times as large as a typical value.
STEP = 2.0**-7
# Largest code of an activation.
_LARGEST = 127
# Number of rows to round at a time, to limit the memory.
_ROWS_AT_ONCE = 256


def quantize_module(module: nn.Module, bits: int, kept: Collection[str] = ()) -> None:
    """Rounds the weight matrices of a model in place, and installs hooks that round what they are multiplied with.

    Args:
        module: The model. Changed permanently.
        bits: Bits of a weight, 8 or 4.
        kept: Names of modules that stay unchanged, such as those that are swappable in the graph.
    """
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    done: set[int] = set()
    for name, layer in module.named_modules():
        if name in kept or not isinstance(layer, (nn.Linear, Conv1D, nn.Embedding)):
            continue
        weight: torch.Tensor = layer.weight
        if isinstance(layer, nn.Embedding):
            if weight.shape[1] % BLOCK:
                continue
        else:
            layer.register_forward_pre_hook(round_operand)
        if weight.data_ptr() in done:  # a tied weight
            continue
        done.add(weight.data_ptr())
        rows = weight.data.T if isinstance(layer, Conv1D) else weight.data
        rows.copy_(torch.from_numpy(rounded_rows(rows.numpy(), bits)))


def rounded_rows(matrix: np.ndarray, bits: int) -> np.ndarray:
    """Rounds a weight matrix to the values that its quantized form represents.

    Args:
        matrix: float32 [outputs, inputs].
        bits: Bits of a weight, 8 or 4.

    Returns:
        float32 of the same shape. The value with the largest magnitude in each block is unchanged.
    """
    found = np.empty_like(matrix)
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        part = matrix[start : start + _ROWS_AT_ONCE]
        found[start : start + _ROWS_AT_ONCE] = _rounded_part(part, bits)
    return found


def _rounded_part(rows: np.ndarray, bits: int) -> np.ndarray:
    # The weight with the largest magnitude in a block is encoded as q = 0, that is -zero scales, without error.
    zero = 1 << (bits - 1)
    count, width = rows.shape
    blocks = np.pad(rows.astype(np.float32), ((0, 0), (0, -width % BLOCK))).reshape(count, -1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
    scales = largest / np.float32(-zero)
    steps = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales != 0)
    codes = np.clip(np.rint(steps) + zero, 0, 2 * zero - 1)
    values: np.ndarray = (codes.astype(np.float32) - zero) * scales
    return values.reshape(count, -1)[:, :width]


def round_operand(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> Any:
    """A hook before the forward of a layer: rounds what is multiplied with its weight to 8 bits, in blocks of 32."""
    from torch.nn import functional

    x, *rest = args
    blocks = functional.pad(x, (0, -x.shape[-1] % BLOCK)).reshape(*x.shape[:-1], -1, BLOCK)
    scale = (blocks.abs().amax(-1, keepdim=True) / _LARGEST).clamp(min=1e-30)
    return ((blocks / scale).round() * scale).flatten(-2)[..., : x.shape[-1]], *rest
