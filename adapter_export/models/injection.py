"""Puts adapters into a PyTorch model without editing it, by forward hooks at the sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import InputError
from adapter_export.methods.contract import WEIGHT, Operator, SiteAdapter, strengthened
from adapter_export.models.heads import load_head, to_numpy
from adapter_export.sites import Port, Site

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

    # out = act(values). The values are y, which `out` replaces, and others to read, by name; see `Port` and `Site`.
    SiteFunction = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


def attach(model: PreTrainedModel, site: Site, reads: Sequence[str], act: SiteFunction) -> list[RemovableHandle]:
    """Makes `act` replace y at a site. Removing all handles undoes it.

    Args:
        model: The model.
        site: The site.
        reads: Names of the values that `act` needs.
        act: Computes the new value.

    Raises:
        AttributeError: The model has no such module.
    """
    module = model.base_model.get_submodule(site.module)
    norm = model.base_model.get_submodule(site.norm) if site.norm else None
    seen, handles = _watch(model, site)

    def replaced(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if site.residual and "x" not in seen:
            raise InputError(f"site {site.name}: {site.residual!r}, whose input it reads, does not run before it")
        values = {"u": u, "y": y, **seen}
        # The values are of this forward pass only, and are not needed any more.
        seen.clear()
        if norm is not None:
            values["n"] = norm.forward(y + values["x"])
        if WEIGHT in reads:
            values[WEIGHT] = linear_weight(site, module)
        return act(values)

    def on_input(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (replaced(args[0], args[0]), *args[1:])

    def before_norm(norm: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # `forward` itself and not a call, so that the adapter uses the same frozen norm without its hooks.
        return (replaced(norm.forward(args[0]), args[0]), *args[1:])

    def on_output(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (replaced(output[0], output[0]), *output[1:])
        if not hasattr(output, "ndim"):
            found = type(output).__name__
            raise InputError(f"module {site.module!r}: expected one that returns a tensor, found {found}")
        return replaced(output, output)

    def around(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: torch.Tensor) -> torch.Tensor:
        return replaced(args[0] if args else next(iter(kwargs.values())), output)

    match site.port:
        case Port.BRANCH:
            handles.append(module.register_forward_hook(around, with_kwargs=True))
        case Port.INPUT:
            handles.append(module.register_forward_pre_hook(on_input))
        case Port.NORM:
            handles.append(module.register_forward_pre_hook(before_norm))
        case Port.OUTPUT:
            handles.append(module.register_forward_hook(on_output))
    return handles


def _watch(model: PreTrainedModel, site: Site) -> tuple[dict[str, torch.Tensor], list[RemovableHandle]]:
    """Returns a dictionary that holds x and h, if the site offers them, as soon as the model has computed them."""
    seen: dict[str, torch.Tensor] = {}
    handles = []

    def see_x(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        seen["x"] = args[0] if args else next(iter(kwargs.values()))

    def see_h(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen["h"] = output[0] if isinstance(output, tuple) else output

    if site.residual:
        module = model.base_model.get_submodule(site.residual)
        handles.append(module.register_forward_pre_hook(see_x, with_kwargs=True))
    if site.output:
        handles.append(model.base_model.get_submodule(site.output).register_forward_hook(see_h))
    return seen, handles


def linear_weight(site: Site, module: nn.Module) -> torch.Tensor:
    """Returns the weight (out, in) of the linear layer at a site. Raises InputError for any other module."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return module.weight
    if isinstance(module, Conv1D):
        weight: torch.Tensor = module.weight.T
        return weight
    found = type(module).__name__
    raise InputError(f"site {site.name}: expected a linear layer, whose weight the adapter reads, found {found}")


def remove_all(handles: Sequence[RemovableHandle]) -> None:
    """Undoes `attach`."""
    for handle in handles:
        handle.remove()


class Injection:
    """An adapter in a model, as trainable parameters, until `remove()`.

    The parameters are registered in the model as `adapter_sites`, so that the model's own `.to()`, `.parameters()` and
    optimizers include them. The modules of the base model and their names do not change.

    Attributes:
        parameters: One `torch.nn.ParameterDict` for each site.
    """

    NAME = "adapter_sites"

    def __init__(self, model: PreTrainedModel, site_adapters: Mapping[Site, SiteAdapter]) -> None:
        import torch
        from torch import nn

        if hasattr(model, self.NAME):
            raise InputError("the model already holds an adapter; remove it first")
        self.model = model
        self.enabled = True
        self.operators: dict[Site, Operator] = {
            site: site_adapter.operator for site, site_adapter in site_adapters.items()
        }
        self.strengths = {site: site_adapter.strength for site, site_adapter in site_adapters.items()}
        self.parameters: dict[Site, nn.ParameterDict] = {}
        reference = next(model.parameters())
        for site, site_adapter in site_adapters.items():
            self.parameters[site] = nn.ParameterDict(
                {
                    name: nn.Parameter(torch.tensor(tensor, dtype=reference.dtype, device=reference.device))
                    for name, tensor in site_adapter.tensors.items()
                }
            )
        # Module names must not contain dots, so sites are numbered, in the order of `site_adapters`.
        model.add_module(self.NAME, nn.ModuleList(self.parameters.values()))
        self._handles = [handle for site in site_adapters for handle in self._attach(site)]

    def _attach(self, site: Site) -> list[RemovableHandle]:
        return attach(self.model, site, self.operators[site].reads, self._act(site))

    def _act(self, site: Site) -> SiteFunction:
        operator, parameters, strength = self.operators[site], self.parameters[site], self.strengths[site]

        def act(values: Mapping[str, torch.Tensor]) -> torch.Tensor:
            if not self.enabled:
                return values["y"]
            return _forward(operator, values, strengthened(operator, dict(parameters.items()), strength))

        return act

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the `with` statement, the model computes what the base model does."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def site_adapters(self) -> dict[Site, SiteAdapter]:
        """Returns copies of the current parameters as numpy arrays, float32 or float64."""
        return {
            site: SiteAdapter(
                self.operators[site],
                {name: to_numpy(value) for name, value in parameters.items()},
                self.strengths[site],
            )
            for site, parameters in self.parameters.items()
        }

    def remove(self) -> None:
        """Takes the adapter out of the model. A task head that `inject` put in stays."""
        remove_all(self._handles)
        delattr(self.model, self.NAME)


def _forward(
    operator: Operator, values: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Computes the operator, in float32 where a half-precision model has float32 values (T5's feed-forward)."""
    import torch

    y = values["y"]
    narrow = any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in parameters.values())
    if not narrow or all(value.dtype != torch.float32 for value in values.values()):
        return operator.forward(values, parameters)
    # Numbers of an embedding's rows stay as they are.
    floats = {name: value.float() if value.is_floating_point() else value for name, value in values.items()}
    return operator.forward(floats, {name: value.float() for name, value in parameters.items()}).to(y.dtype)


def inject(model: PreTrainedModel, adapter: Adapter) -> Injection:
    """Puts a whole adapter into the model: its operators, and its task head if it has one."""
    load_head(model, adapter)
    return Injection(model, adapter.sites)
