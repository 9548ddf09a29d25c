"""Finds the stacks of layers in a model, and which of their layers do the same.

Two layers do the same if their modules are of the same classes, with the same settings and sizes, and with the same
adapters. Only the values of their weights differ, and the numbers by which they know their place in the stack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

from adapter_export.errors import AdapterExportError
from adapter_export.methods.contract import Operator
from adapter_export.sites import Site

if TYPE_CHECKING:
    from torch import nn

Sites = Mapping[Site, Sequence[Operator]]


class NotUniform(AdapterExportError):
    """In a traced graph, layers that should do the same differ, or other parts of it read what is inside them."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Layers of a model that run one after the other.

    Attributes:
        path: Path of their list in the model.
        inner: The same path inside the base model, as sites have it.
        layers: All of them, by number.
        kept: Numbers of the layers that are traced, in order.
        alike: For each layer that is not traced, two traced layers that do the same: the first, and the last.
        numbered: Path of a module inside a layer, and the attribute of it that is the layer's number.
    """

    path: str
    inner: str
    layers: tuple[nn.Module, ...]
    kept: tuple[int, ...]
    alike: Mapping[int, tuple[int, int]]
    numbered: tuple[tuple[str, str], ...]


def find_stacks(model: Any, sites: Sites) -> tuple[Stack, ...]:
    """Returns the stacks of which some layers need not be traced.

    The first layer is always traced, because it may do more than the others (T5's has the table of positions). Of the
    others, the first and the last of those that do the same are traced.

    Args:
        model: The model, a `PreTrainedModel`.
        sites: The sites of adapters in it.
    """
    from torch import nn

    stacks: list[Stack] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{stack.path}.") for stack in stacks)
        if isinstance(module, nn.ModuleList) and not inside and _is_counted(model, len(module)):
            stacks.append(_stack(model, path, tuple(module), sites))
    shortened = [stack for stack in stacks if stack.alike]
    # One number in a config may be that of two stacks. Then both must become as short.
    lengths: dict[int, set[tuple[int, ...]]] = {}
    for stack in stacks:
        lengths.setdefault(len(stack.layers), set()).add(stack.kept)
    return tuple(stack for stack in shortened if len(lengths[len(stack.layers)]) == 1)


def configs(model: Any) -> list[Any]:
    """Returns the configs of all modules of a model, each once."""
    owners = [module.config for module in model.modules() if hasattr(module, "config")]
    return list({id(config): config for owner in owners for config in (owner, owner.get_text_config())}.values())


def counts(config: Any, number: int) -> Iterator[str]:
    """Yields the settings of a config that state this number of layers (`num_hidden_layers`)."""
    for name, value in vars(config).items():
        if "layer" in name and type(value) is int and value == number:
            yield name


def lists(config: Any, number: int) -> Iterator[str]:
    """Yields the settings of a config with one item for each of this number of layers (`layer_types`)."""
    for name, value in vars(config).items():
        if isinstance(value, (list, tuple)) and len(value) == number:
            yield name


def _is_counted(model: Any, number: int) -> bool:
    return any(any(counts(config, number)) for config in configs(model))


def _stack(model: Any, path: str, layers: tuple[nn.Module, ...], sites: Sites) -> Stack:
    numbered = _numbered(layers)
    root = next((name for name, module in model.named_modules() if module is model.base_model), "")
    inner = path.removeprefix(f"{root}.") if root else path
    groups: dict[Hashable, list[int]] = {}
    for number, layer in enumerate(layers):
        of_layer = (
            _what_it_does(layer, numbered),
            _adapters(f"{inner}.{number}.", sites),
            _items(model, layers, number),
        )
        groups.setdefault(of_layer if number else "first", []).append(number)
    if _shares_weights(layers):
        groups = {number: [number] for number in range(len(layers))}
    kept = sorted({number for group in groups.values() for number in (group[0], group[-1])})
    alike = {number: (group[0], group[-1]) for group in groups.values() for number in group[1:-1]}
    return Stack(path, inner, layers, tuple(kept), alike, numbered)


def _numbered(layers: tuple[nn.Module, ...]) -> tuple[tuple[str, str], ...]:
    """Returns the attributes that are, in every layer, its number."""
    found = Counter(
        (path, name)
        for number, layer in enumerate(layers)
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
        if type(value) is int and value == number
    )
    return tuple(attribute for attribute, times in found.items() if times == len(layers))


def _what_it_does(layer: nn.Module, numbered: Sequence[tuple[str, str]]) -> Hashable:
    """Returns a key that is equal for layers of the same modules, settings and sizes."""
    from torch import nn

    usual = {*vars(nn.Module()), "_is_hf_initialized"}
    tensors = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in _tensors(layer)]
    modules: list[Any] = []
    for path, module in layer.named_modules():
        settings = {name: value for name, value in vars(module).items() if name not in usual}
        modules += [path, type(module), module.training]
        modules += [
            (name, "number" if (path, name) in numbered else _setting(settings[name], module))
            for name in sorted(settings)
        ]
        # A hook may do anything.
        modules += [id(hook) for hooks in (module._forward_hooks, module._forward_pre_hooks) for hook in hooks.values()]
    return (*modules, *tensors)


def _tensors(layer: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from layer.named_parameters()
    yield from layer.named_buffers()


def _setting(value: Any, owner: nn.Module) -> Any:
    """Returns a key that is equal for equal settings. What is not known to be a setting is equal to itself only.

    Args:
        value: The value of an attribute.
        owner: The module that has it.
    """
    import torch

    if isinstance(value, (list, tuple)):
        return (type(value), *(_setting(item, owner) for item in value))
    if isinstance(value, dict):
        return tuple((key, _setting(item, owner)) for key, item in value.items())
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)):
        return (type(value), value)
    if isinstance(value, partial):
        return ("partial", _setting((value.func, value.args, value.keywords), owner))
    if isinstance(value, MethodType) and value.__self__ is owner:
        return ("method", value.__func__)
    return id(value)


def _adapters(prefix: str, sites: Sites) -> Hashable:
    """Returns the sites in a layer, by their paths in the layer, and their operators."""
    found = [
        (
            *(part.removeprefix(prefix) for part in (site.module, site.residual, site.output, site.norm)),
            site.port.value,
            *((operator.op_type, operator.reads) for operator in stack),
        )
        for site, stack in sites.items()
        if site.module.startswith(prefix)
    ]
    return tuple(sorted(found, key=str))


def _items(model: Any, layers: tuple[nn.Module, ...], number: int) -> Hashable:
    """Returns what the lists of the configs say about a layer."""
    return tuple(
        (name, str(getattr(config, name)[number])) for config in configs(model) for name in lists(config, len(layers))
    )


def _shares_weights(layers: tuple[nn.Module, ...]) -> bool:
    found = Counter(id(tensor) for layer in layers for tensor in {id(own): own for _, own in _tensors(layer)}.values())
    return any(times > 1 for times in found.values())


def left_out(path: str, stack: Stack) -> bool:
    """Whether a module, by its path in the base model, is in a layer that is not traced."""
    return any(
        path.startswith(f"{stack.inner}.{number}.") or path == f"{stack.inner}.{number}" for number in stack.alike
    )
