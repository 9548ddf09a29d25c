"""Caches the outputs of PyTorch, which take most of the time of a check, for further bundles of the same model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adapter_export.bundle.adapter_file import adapter_tensors
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.models.base_model import BaseModel
from adapter_export.parity.recording.subject import Subject
from adapter_export.parity.references.float64 import Float64Case, Float64Reference
from adapter_export.parity.references.pytorch import CaseReference, ModelOutputs, Reference

# ModelOutputs by everything that they depend on.
Cache = dict[Any, ModelOutputs]


def cached_reference(cache: Cache) -> type[Reference]:
    """Returns a `Reference` that runs the model only for outputs that are not in `cache` yet."""

    class Cached(Reference):
        def case(self, inputs: Mapping[str, np.ndarray], rounding: int = 0) -> CaseReference:
            return CachedCaseReference(self, inputs, rounding, cache)

    return Cached


def cached_float64_reference(cache: Cache) -> type[Float64Reference]:
    """Returns a `Float64Reference` that runs a witness only for outputs that are not in `cache` yet.

    Witnesses of the same name must be equal.
    """

    class Cached(Float64Reference):
        def case(self, inputs: Mapping[str, np.ndarray]) -> Float64Case:
            return CachedFloat64Case(self, inputs, cache)

    return Cached


class CachedFloat64Case(Float64Case):
    def __init__(self, models: Float64Reference, inputs: Mapping[str, np.ndarray], cache: Cache) -> None:
        super().__init__(models, inputs)
        self._cache, self._key = cache, _content(inputs)

    def _run(self, subject: Subject, name: str, *, on: bool) -> ModelOutputs:
        state = tuple((key, value.numpy().tobytes()) for key, value in subject.model.state_dict().items())
        key = (hash(state), subject.body_only, on, self._key)
        if key not in self._cache:
            self._cache[key] = super()._run(subject, name, on=on)
        return self._cache[key]


class CachedCaseReference(CaseReference):
    def __init__(self, reference: Reference, inputs: Mapping[str, np.ndarray], rounding: int, cache: Cache) -> None:
        super().__init__(reference, inputs, rounding)
        base: BaseModel = reference.base
        self._cache = cache
        self._key = (base.info.sha256, base.task, base.module.dtype, rounding, _content(inputs))

    def on(self, adapter: Adapter) -> ModelOutputs:
        return self._cached(
            ("on", _content(adapter_tensors(adapter))), lambda: super(CachedCaseReference, self).on(adapter)
        )

    def off(self, adapter: Adapter | None = None) -> ModelOutputs:
        head = _content(adapter_tensors(adapter)) if adapter else None
        return self._cached(("off", head), lambda: super(CachedCaseReference, self).off(adapter))

    def _cached(self, state: tuple[Any, ...], run: Callable[[], ModelOutputs]) -> ModelOutputs:
        key = (*self._key, *state)
        if key not in self._cache:
            self._cache[key] = run()
        return self._cache[key]


def _content(arrays: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
    return tuple((name, array.shape, array.tobytes()) for name, array in sorted(arrays.items()))
