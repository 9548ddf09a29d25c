"""Weights that a checkpoint lacks or has beyond the model: which of them matter."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

_NUMBERED = re.compile(r"\.\d+\.")


def unread_weights(module: PreTrainedModel, absent: set[str], output: str) -> tuple[set[str], tuple[str, ...]]:
    """Returns the absent parameters that the task's output does not read, and the other outputs that read them.

    They are found by running the model: an output that needs the gradient of a parameter reads it. If the task's output
    reads any, none is returned, as the model cannot be used anyway. A layer with a number always counts as read, since
    which layers run may depend on the input.
    """
    import torch

    if not absent or any(_NUMBERED.search(name) for name in absent):
        return set(), ()
    parameters = [parameter for name, parameter in module.named_parameters() if name in absent]
    if len(parameters) < len(absent):
        return set(), ()
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        result = module(**_example(module))
        values = {name: value for name, value in result.items() if isinstance(value, torch.Tensor)}
        reading = [name for name, value in values.items() if value.requires_grad]
    except Exception:  # A model can raise any error. Then nothing is known.
        return set(), ()
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    if output not in values or output in reading:
        return set(), ()
    return set(absent), tuple(reading)


def whole_modules(body: nn.Module, absent: set[str]) -> tuple[str, ...]:
    """Returns the paths of the modules whose parameters are all absent."""
    found = []
    for path, child in body.named_modules():
        own = {f"{path}.{name}" for name, _ in child.named_parameters()}
        if path and own and own <= absent:
            found.append(path)
    return tuple(found)


def _example(module: PreTrainedModel) -> dict[str, Any]:
    """Returns the smallest inputs of the kinds that the model reads."""
    import torch

    config, parameters = module.config, inspect.signature(module.forward).parameters
    inputs: dict[str, Any] = {}
    for name in ("input_ids", "decoder_input_ids"):
        if name in parameters:
            inputs[name] = torch.ones((1, 4), dtype=torch.long)
    if "pixel_values" in parameters:
        vision = getattr(config, "vision_config", config)
        size = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
        inputs["pixel_values"] = torch.zeros((1, vision.num_channels, size, size), dtype=module.dtype)
    return inputs


def leave_out(module: nn.Module, names: Sequence[str]) -> None:
    """Removes outputs from what the model returns."""

    def without(_: nn.Module, args: Any, output: Any) -> Any:
        return type(output)(**{name: value for name, value in output.items() if name not in names})

    module.register_forward_hook(without)


def beyond_the_model(module: Any, unexpected: Iterable[str]) -> list[str]:
    """Returns those of the checkpoint's unexpected tensors that differ from the model's only in the number of a layer.

    Other unexpected tensors are heads for other tasks in most cases.
    """
    known = {_NUMBERED.sub(".N.", name) for name in module.state_dict()}
    return sorted(name for name in unexpected if _NUMBERED.sub(".N.", name) in known)
