"""A model with weights in 8 bits, as ONNX Runtime computes with them: T of such a graph.

Of a weight row, each block of 32 values has one float32 scale: w = scale * (q - 128), q unsigned. What is multiplied
with it is rounded to 8 bits as well, in blocks of 32 along the features, as MatMulNBits does at accuracy level 4:
x' = scale * round(x / scale), scale = max|x| / 127. Written apart from the export, so that it can be held against it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

BLOCK = 32
# What a product makes of rounding its operands, relative to itself: each is rounded to steps of 1/127 of the largest in
# its block, which is some three times the usual one.
STEP = 2.0**-7
_LARGEST = 127
_ZERO_POINT = 128
_ROWS_AT_ONCE = 256


def quantize_module(module: nn.Module, kept: Collection[str] = ()) -> None:
    """Round the module's matrices in place, and for as long as it lives what they are multiplied with.

    kept: names of modules that stay as they are, as those that are swappable in the graph.
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
            layer.register_forward_pre_hook(_round_operand)
        if weight.data_ptr() in done:  # tied
            continue
        done.add(weight.data_ptr())
        rows = weight.data.T if isinstance(layer, Conv1D) else weight.data
        rows.copy_(torch.from_numpy(rounded_rows(rows.numpy())))


def rounded_rows(matrix: np.ndarray) -> np.ndarray:
    """float32 [N, K] as its 8-bit form stands for it; the value of largest size in a block stays as it is."""
    found = np.empty_like(matrix)
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        part = matrix[start : start + _ROWS_AT_ONCE]
        found[start : start + _ROWS_AT_ONCE] = _rounded_part(part)
    return found


def _rounded_part(rows: np.ndarray) -> np.ndarray:
    count, width = rows.shape
    blocks = np.pad(rows.astype(np.float32), ((0, 0), (0, -width % BLOCK))).reshape(count, -1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
    scales = largest / np.float32(-_ZERO_POINT)
    steps = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales != 0)
    codes = np.clip(np.rint(steps) + _ZERO_POINT, 0, 255)
    values: np.ndarray = (codes.astype(np.float32) - _ZERO_POINT) * scales
    return values.reshape(count, -1)[:, :width]


def _round_operand(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> Any:
    from torch.nn import functional

    x, *rest = args
    blocks = functional.pad(x, (0, -x.shape[-1] % BLOCK)).reshape(*x.shape[:-1], -1, BLOCK)
    scale = (blocks.abs().amax(-1, keepdim=True) / _LARGEST).clamp(min=1e-30)
    return ((blocks / scale).round() * scale).flatten(-2)[..., : x.shape[-1]], *rest
