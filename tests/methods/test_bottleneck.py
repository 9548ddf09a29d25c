from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from adapter_export.errors import InputError
from adapter_export.methods.activations import ALIASES, activation
from adapter_export.methods.bottleneck import Bottleneck, BottleneckOperator, BottleneckOptions
from adapter_export.sites import Features

# What each activation gives at -2 and 3, from its definition.
AT_MINUS_2_AND_3 = {
    "relu": (0.0, 3.0),
    "silu": (-2 / (1 + math.e**2), 3 / (1 + math.e**-3)),
    "gelu": (-(1 + math.erf(-2 / math.sqrt(2))), 1.5 * (1 + math.erf(3 / math.sqrt(2)))),
    "gelu_new": (
        -(1 + math.tanh(math.sqrt(2 / math.pi) * (-2 - 0.044715 * 8))),
        1.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (3 + 0.044715 * 27))),
    ),
    "leaky_relu": (-0.02, 3.0),
    "gelu_10": (-(1 + math.erf(-2 / math.sqrt(2))), 1.5 * (1 + math.erf(3 / math.sqrt(2)))),
    "quick_gelu": (-2 / (1 + math.exp(1.702 * 2)), 3 / (1 + math.exp(-1.702 * 3))),
    "relu2": (0.0, 9.0),
    "relu6": (0.0, 3.0),
    "hardswish": (-2 / 6, 3.0),
    "mish": (-2 * math.tanh(math.log1p(math.exp(-2))), 3 * math.tanh(math.log1p(math.exp(3)))),
    "laplace": (
        0.5 * (1 + math.erf((-2 - 0.707107) / (0.282095 * math.sqrt(2)))),
        0.5 * (1 + math.erf((3 - 0.707107) / (0.282095 * math.sqrt(2)))),
    ),
    "tanh": (math.tanh(-2), math.tanh(3)),
    "sigmoid": (1 / (1 + math.e**2), 1 / (1 + math.e**-3)),
    "linear": (-2.0, 3.0),
}


@pytest.mark.parametrize("name", AT_MINUS_2_AND_3)
def test_the_formula_by_hand(name: str) -> None:
    import torch

    # u = (1, 2) goes down to (1 + 2*2 - 2, 1*1 + 2*1 - 5) = (3, -2), through the activation to (a, b),
    # and up to (10 a + 0.5, 100 b - 0.5), which is added to y = (1000, 2000).
    b, a = AT_MINUS_2_AND_3[name]
    tensors = {
        "down": torch.tensor([[1.0, 1.0], [2.0, 1.0]]),
        "down_bias": torch.tensor([-2.0, -5.0]),
        "up": torch.tensor([[10.0, 0.0], [0.0, 100.0]]),
        "up_bias": torch.tensor([0.5, -0.5]),
    }
    u, y = torch.tensor([[[1.0, 2.0]]]).double(), torch.tensor([[[1000.0, 2000.0]]]).double()
    as_double = {key: value.double() for key, value in tensors.items()}
    out = BottleneckOperator(name).forward({"u": u, "y": y}, as_double)
    np.testing.assert_allclose(out.numpy(), [[[1000.5 + 10 * a, 1999.5 + 100 * b]]], rtol=1e-12)


@pytest.mark.parametrize("alias", ALIASES)
def test_other_spellings_name_the_same_function(alias: str) -> None:
    import torch
    from transformers.activations import ACT2FN

    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    # transformers has no "leakyrelu"; AdapterHub means torch's function by it.
    theirs = torch.nn.functional.leaky_relu if alias == "leakyrelu" else ACT2FN[alias]
    # gelu_fast has its constant rounded to ten digits.
    assert torch.allclose(ACT2FN[activation(alias)](x), theirs(x), rtol=0, atol=1e-10)


def test_an_unknown_activation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"activation 'xielu': expected one of gelu, .*swish, tanh"):
        activation("xielu")


@pytest.mark.parametrize(
    ("features", "factor", "width"), [(32, 16, 2), (32, 5, 6), (32, 64, 1), (32, 0.5, 64), (768, 16, 48)]
)
def test_width_follows_the_reduction_factor(features: int, factor: float, width: int) -> None:
    options = BottleneckOptions(reduction_factor=factor)
    tensors = (
        Bottleneck()
        .initial(BottleneckOperator("relu"), Features(features, features), options, np.random.default_rng(0))
        .tensors
    )
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "down": (features, width),
        "down_bias": (width,),
        "up": (width, features),
        "up_bias": (features,),
    }
    assert tensors["down"].any(), "the first layer starts at random, or no gradient would ever reach it"


@pytest.mark.parametrize(
    ("options", "expected"), [({"placement": "houlsby"}, "silu"), ({"placement": "pfeiffer"}, "relu"),
                              ({"placement": "pfeiffer", "activation": "swish"}, "silu")]
)  # fmt: skip
def test_each_placement_has_its_activation(options: dict[str, Any], expected: str) -> None:
    placed = Bottleneck().place_at(["a"], BottleneckOptions(**options))
    assert list(placed.values()) == [BottleneckOperator(expected)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "diagonal"}, "placement 'diagonal': expected one of houlsby, pfeiffer, parallel"),
        ({"reduction_factor": 0}, "reduction factor 0: expected a number above 0"),
        ({"reduction_factor": -4}, "reduction factor -4: expected a number above 0"),
        ({"reduction_factor": math.nan}, "reduction factor nan: expected a number above 0"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BottleneckOptions(**options)
