"""Finds the values of PyTorch that belong to a place of a graph, by the names of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.graphs import ENCODER
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.parity.localizing.places import AFTER, BEFORE, INPUT, Place
from adapter_export.parity.localizing.pytorch_values import PyTorchValues
from adapter_export.parity.whole_model import encoder_output
from adapter_export.sites import Port, strip_prefix

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class ModuleNames:
    """The modules of a model, by the paths that a graph tells.

    A graph may be traced from a part of the model or from a wrapper around it, so its paths may have other beginnings.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        own: dict[int, str] = {id(module): path for path, module in model.named_modules()}
        # Of a module that is in the model twice, one path counts: that under which its values are kept.
        self._paths: dict[str, str] = {
            path: own[id(module)] for path, module in model.named_modules(remove_duplicate=False)
        }
        self._prefix = "" if model.base_model is model else model.base_model_prefix

    def path(self, name: str) -> str | None:
        """Returns the path in the complete model of a module that a graph or a site names; None if there is none."""
        for start in (f"{self._prefix}.{name}" if self._prefix else name, name):
            rest = start
            while rest:
                if rest in self._paths:
                    return self._paths[rest]
                rest = rest.partition(".")[2]
        return None

    def module(self, place: Place) -> str | None:
        """Returns the path of the module that a place belongs to, which is not the output of the model."""
        return self.path(place.name.removesuffix(".input"))

    def without_merged_inputs(self, places: Iterable[Place], merged: Iterable[Adapter]) -> Iterator[Place]:
        """Yields places, except what a module reads whose weight scales it: in PyTorch an adapter does so before it.

        Args:
            places: The places of a graph.
            merged: The adapters that are merged into the weights of the graph.
        """
        sites = [site for adapter in merged for site in adapter.sites if site.port is Port.INPUT]
        scaling = {self.path(site.module) for site in sites}
        return (place for place in places if place.part != INPUT or self.module(place) not in scaling)

    def shown(self, place: Place) -> str:
        """Returns the name of a place as sites are named: without the prefix of a task class.

        What a module reads is computed in the module around it, which is named.
        """
        if place.part in (BEFORE, AFTER) or place.final:
            return place.name
        name = strip_prefix(self.path(place.name) or place.name, self._prefix)
        return name.rpartition(".")[0] or "the model" if place.part == INPUT else name

    def part(self, place: Place) -> str:
        """Returns which value a place is, in words."""
        return f"inside, before {place.name.rpartition('.')[2]}" if place.part == INPUT else place.part

    def values(self, found: PyTorchValues, place: Place) -> list[np.ndarray]:
        """Returns the values that may be the one at a place. A module may return several tensors."""
        if place.final:
            name = encoder_output(place.name) if place.graph == ENCODER else place.name
            return [found.outputs[name]] if name in found.outputs else []
        if place.part == BEFORE:
            calls = [[values["y"]] for values in found.before.get(place.name, ())]
        elif place.part == AFTER:
            calls = [[value] for value in found.after.get(place.name, ())]
        elif place.part == INPUT:
            calls = [[value] for value in found.inputs.get(self.path(place.name) or "", ())]
        else:
            calls = found.modules.get(self.path(place.name) or "", [])
        # The graphs of an encoder and of a decoder may each use a module that both share.
        chosen = [calls[place.use]] if len(calls) == place.uses else calls
        return [to_numpy(value) for call in chosen for value in call]


def to_numpy(value: torch.Tensor) -> np.ndarray:
    """Returns a tensor as an array; numbers in half precision as float32."""
    import torch

    narrow = value.dtype in (torch.float16, torch.bfloat16)
    array: np.ndarray = (value.float() if narrow else value).detach().numpy()
    return array
