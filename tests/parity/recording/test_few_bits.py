"""PyTorch with 8-bit weights, compared with the graph with the same weights and with products in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapter_export.export.quantize import quantize_rows
from adapter_export.models.base_model import BaseModel
from adapter_export.parity.recording.few_bits import quantize_module

WIDTH, OUTPUTS = 40, 5


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.narrow = nn.Embedding(7, 64), nn.Embedding(7, 8)
        self.linear, self.conv, self.head = nn.Linear(WIDTH, OUTPUTS), Conv1D(OUTPUTS, WIDTH), nn.Linear(WIDTH, 3)
        self.tied = nn.Linear(64, 7, bias=False)
        self.tied.weight = self.table.weight
        self.norm = nn.LayerNorm(WIDTH)
        nn.init.normal_(self.norm.weight)


def steps(rows: np.ndarray) -> np.ndarray:
    """Returns the distance of each value from w = scale (q - 128) with integer q, in steps of its block of 32."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 32))).reshape(len(rows), -1, 32)
    scale = np.abs(padded).max(-1, keepdims=True) / 128
    return np.abs(padded / scale - np.rint(padded / scale))


def test_which_weights_are_rounded() -> None:
    torch.manual_seed(0)
    module = Model()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    quantize_module(module, 8, kept=("head",))
    after = module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"table.weight", "tied.weight", "linear.weight", "conv.weight"}
    for rows, old in (
        (module.linear.weight, before["linear.weight"]),
        (module.conv.weight.T, before["conv.weight"].T),
        (module.table.weight, before["table.weight"]),
    ):
        assert steps(rows.detach().numpy()).max() < 1e-3
        assert 0 < (rows - old).abs().max() <= old.abs().max() / 100
    # A tied table is rounded once, and stays tied.
    assert module.tied.weight is module.table.weight


def test_activations_are_rounded() -> None:
    torch.manual_seed(0)
    module = Model()
    quantize_module(module, 8, kept=("head",))
    x = torch.randn(2, 3, WIDTH)
    x[0, 0] = 0
    blocks = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 24))).reshape(2, 3, 2, 32)
    scale = np.abs(blocks).max(-1, keepdims=True) / 127
    rounded = np.where(scale > 0, np.rint(blocks / np.where(scale > 0, scale, 1)) * scale, 0).reshape(2, 3, 64)
    expected = rounded[..., :WIDTH] @ module.linear.weight.detach().numpy().T + module.linear.bias.detach().numpy()
    with torch.inference_mode():
        np.testing.assert_allclose(module.linear(x).numpy(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(module.head(x), nn.functional.linear(x, module.head.weight, module.head.bias))


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_the_error_against_the_model_is_that_of_8_bits(model_type: str, tiny_base: Callable[..., BaseModel]) -> None:
    """The error is somewhat larger than that of a model in which only the weights are rounded."""
    ids = torch.arange(5, 15).reshape(2, 5)
    plain, eighth, weights = (tiny_base(model_type, "features").module for _ in range(3))
    quantize_module(eighth, 8)
    for layer in weights.modules():
        if isinstance(layer, (nn.Linear, Conv1D)):
            rows = layer.weight.data.T if isinstance(layer, Conv1D) else layer.weight.data
            quantized, scales = quantize_rows(rows.numpy(), 8)
            dense = ((quantized.astype(np.float64) - 128) * scales[..., None]).reshape(len(rows), -1)
            rows.copy_(torch.from_numpy(dense[:, : rows.shape[1]]))
    with torch.inference_mode():
        expected, found, half = (module(ids)[0] for module in (plain, eighth, weights))
    errors = [float((value - expected).square().mean().sqrt()) for value in (half, found)]
    assert 0.5 * errors[0] < errors[1] < 5 * errors[0]
    assert errors[1] < 0.1 * float(expected.square().mean().sqrt())
