"""The non-linear functions of bottleneck adapters, by PyTorch's names and as ONNX text."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping

from adapter_export.errors import InputError


def _with(constants: Mapping[str, float], text: str) -> str:
    """Returns `text` after lines that define the constants, in the type of {x}."""
    lines = [
        f"{name}_value = Constant <value_float: float = {value}> ()  {name} = CastLike ({name}_value, {{x}})"
        for name, value in constants.items()
    ]
    return "  ".join([*lines, text])


# Activation -> ONNX text from {x} to {y}. The keys are names in `transformers.activations.ACT2FN`, which has the
# functions in PyTorch. ALIASES maps other names of the same functions to them.
ACTIVATIONS: Mapping[str, str] = {
    "relu": "{y} = Relu ({x})",
    "silu": "sigma = Sigmoid ({x})  {y} = Mul ({x}, sigma)",
    "gelu": '{y} = Gelu <approximate: string = "none"> ({x})',
    "gelu_new": '{y} = Gelu <approximate: string = "tanh"> ({x})',
    "gelu_10": _with(
        {"low": -10.0, "high": 10.0},
        'free = Gelu <approximate: string = "none"> ({x})  above = Max (free, low)  {y} = Min (above, high)',
    ),
    "quick_gelu": _with({"slope": 1.702}, "steep = Mul ({x}, slope)  sigma = Sigmoid (steep)  {y} = Mul ({x}, sigma)"),
    "leaky_relu": "{y} = LeakyRelu <alpha: float = 0.01> ({x})",
    "relu2": "positive = Relu ({x})  {y} = Mul (positive, positive)",
    "relu6": _with({"high": 6.0}, "positive = Relu ({x})  {y} = Min (positive, high)"),
    "hardswish": "{y} = HardSwish ({x})",
    "mish": "{y} = Mish ({x})",
    # (1 + erf((x - mu) / (sigma sqrt 2))) / 2 with Ma et al. 2022's mu = sqrt(1/2), sigma = sqrt(1/(4 pi)), rounded
    # as transformers has them.
    "laplace": _with(
        {"mu": 0.707107, "width": 0.398942574, "one": 1.0, "half": 0.5},
        "moved = Sub ({x}, mu)  unit = Div (moved, width)  error = Erf (unit)  raised = Add (error, one)  "
        "{y} = Mul (raised, half)",
    ),
    "tanh": "{y} = Tanh ({x})",
    "sigmoid": "{y} = Sigmoid ({x})",
    "linear": "{y} = Identity ({x})",
}
ALIASES: Mapping[str, str] = {
    "swish": "silu",
    "leakyrelu": "leaky_relu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
}


def activation(name: str) -> str:
    """Returns the canonical name of an activation. Raises InputError naming the known ones."""
    canonical = ALIASES.get(name, name)
    if canonical not in ACTIVATIONS:
        expected = ", ".join(sorted({*ACTIVATIONS, *ALIASES}))
        raise InputError(f"activation {reprlib.repr(name)}: expected one of {expected}")
    return canonical
