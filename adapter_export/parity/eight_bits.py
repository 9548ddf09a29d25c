"""T of a graph with weights in 8 bits: PyTorch with the same ones, and what they are multiplied with rounded, too."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from adapter_export.export.quantize import BLOCK, dequantize_rows, quantize_rows

if TYPE_CHECKING:
    import torch
    from torch import nn

# What a product makes of rounding its operands, relative to itself: each is rounded to steps of 1/127 of the largest in
# its block, which is some three times the usual one.
STEP = 2.0**-7
_LARGEST = 127


def quantize_module(module: nn.Module, kept: Collection[str] = ()) -> None:
    """Round the module's matrices in place as `export.quantize` does those of the graph, and for as long as it lives
    what they are multiplied with.

    x in blocks of BLOCK along the features: x' = scale * round(x / scale), scale = max|x| / 127, as ONNX Runtime's
    MatMulNBits does at accuracy level 4. kept: names of modules that stay as they are, being swappable in the graph.
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
        rows.copy_(torch.from_numpy(dequantize_rows(*quantize_rows(rows.numpy()), rows.shape[1])))


def _round_operand(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> Any:
    from torch.nn import functional

    x, *rest = args
    blocks = functional.pad(x, (0, -x.shape[-1] % BLOCK)).reshape(*x.shape[:-1], -1, BLOCK)
    scale = (blocks.abs().amax(-1, keepdim=True) / _LARGEST).clamp(min=1e-30)
    return ((blocks / scale).round() * scale).flatten(-2)[..., : x.shape[-1]], *rest
