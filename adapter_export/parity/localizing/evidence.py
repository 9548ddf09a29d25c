"""What is known about the first place that departs, and what PyTorch would compute there if something were wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.methods.contract import Operator, SiteAdapter
from adapter_export.parity.localizing.comparison import Comparison, Paired
from adapter_export.parity.localizing.module_names import to_numpy
from adapter_export.parity.localizing.places import AFTER, BEFORE
from adapter_export.parity.localizing.pytorch_values import PyTorchValues
from adapter_export.parity.recording.precision import everything_in_float64
from adapter_export.sites import Port, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Evidence:
    """The first departure, with what is needed to try explanations.

    Attributes:
        first: The values at the place.
        run: The values of PyTorch in float64.
        model: The model in float64.
        module: The path in `model` of the module at the place; None if there is none.
        adapter: The adapter of the run as it was read from its checkpoint; None for the base model.
        on: Whether its body acts.
        adapters: All adapters by name.
        comparison: Compares values.
        rerun: Returns R at the place for other inputs of the model.
        inputs: The inputs of the model, by name.
        stored: The tensors that the bundle has for the adapter, by full name; empty if the adapter is merged.
        constant: Returns a weight of the graph by its name; None if it has no such weight.
        steps: The shapes of the value in the steps that the graph ran.
    """

    first: Paired
    run: PyTorchValues
    model: Any
    module: str | None
    adapter: Adapter | None
    on: bool
    adapters: Mapping[str, Adapter]
    comparison: Comparison
    rerun: Callable[[Arrays], list[np.ndarray]]
    inputs: Arrays
    stored: Arrays
    constant: Callable[[str], np.ndarray | None]
    steps: tuple[tuple[int, ...], ...]

    def is_near(self, value: torch.Tensor | np.ndarray | None) -> bool:
        """Returns whether the graph computes this value at the place."""
        if value is None:
            return False
        array = value if isinstance(value, np.ndarray) else to_numpy(value)
        if array.shape != self.first.actual.shape:
            return False
        # Another explanation must be much better than the right value.
        limit = min(self.first.limit, self.first.error / 4)
        return self.comparison.error(self.first.actual, array) <= limit

    @property
    def site_adapters(self) -> dict[Site, SiteAdapter]:
        """What the adapter has at the place: at this site, or at the module whose output it is."""
        if self.adapter is None:
            return {}
        return {site: own for site, own in self.adapter.sites.items() if self._is_at(site)}

    def _is_at(self, site: Site) -> bool:
        place = self.first.place
        if place.part in (BEFORE, AFTER):
            return site.name == place.name
        return self.module is not None and self.module.endswith(site.module) and site.name in self.run.before

    def values(self, site: Site) -> dict[str, Any]:
        """Returns the values that an operator reads at a site, in PyTorch."""
        calls = self.run.before[site.name]
        return calls[min(self.first.place.use, len(calls) - 1)]

    def given(self) -> Any:
        """Returns the input of the module at the place; None if it is not known."""
        calls = self.run.inputs.get(self.module or "", [])
        return calls[min(self.first.place.use, len(calls) - 1)] if calls else None

    def at_place(self, site: Site, out: torch.Tensor) -> torch.Tensor | None:
        """Returns the value at the place if `out` comes out of the site."""
        if self.first.place.part == AFTER or site.port in (Port.OUTPUT, Port.BRANCH):
            return out
        return self.attempt(lambda: self.submodule().forward(out))

    def submodule(self) -> Any:
        """Returns the module at the place."""
        return self.model.get_submodule(self.module)

    def attempt(self, compute: Callable[[], Any]) -> torch.Tensor | None:
        """Returns what `compute` returns, in float64; None if it fails, or returns no tensor."""
        import torch

        try:
            with computing():
                found = compute()
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError):
            return None  # The explanation does not fit the shapes at this place.
        if isinstance(found, tuple) and found:
            found = found[0]
        return found if isinstance(found, torch.Tensor) else None


@contextmanager
def computing() -> Iterator[None]:
    """Returns a context in which PyTorch computes in float64 and keeps no gradients."""
    import torch

    contexts: list[AbstractContextManager[Any]] = [torch.no_grad(), everything_in_float64()]
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def forward(operator: Operator, values: Mapping[str, torch.Tensor], tensors: Arrays) -> torch.Tensor:
    """Returns what an operator computes with these tensors."""
    import torch

    return operator.forward(values, {name: torch.from_numpy(np.float64(value)) for name, value in tensors.items()})
