"""PyTorch's answers, kept for every further bundle of the same model and adapters: most of the time parity takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adapter_export.basemodel import BaseModel
from adapter_export.bundle.adapter_file import adapter_tensors
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.parity.exact import Exact, ExactCase
from adapter_export.parity.recording.subject import Subject
from adapter_export.parity.reference import CaseReference, Outputs, Reference

# By everything that an answer depends on.
Memory = dict[Any, Outputs]


def remembering(memory: Memory) -> type[Reference]:
    """A `Reference` that asks the model only what is not in `memory` yet."""

    class Remembering(Reference):
        def case(self, inputs: Mapping[str, np.ndarray], rounding: int = 0) -> CaseReference:
            return RememberedCase(self, inputs, rounding, memory)

    return Remembering


def witnessing(memory: Memory) -> type[Exact]:
    """An `Exact` that asks the witnesses only what is not in `memory` yet. Those of one name must be the same ones."""

    class Remembering(Exact):
        def case(self, inputs: Mapping[str, np.ndarray]) -> ExactCase:
            return WitnessedCase(self, inputs, memory)

    return Remembering


class WitnessedCase(ExactCase):
    def __init__(self, exact: Exact, inputs: Mapping[str, np.ndarray], memory: Memory) -> None:
        super().__init__(exact, inputs)
        self._memory, self._key = memory, _content(inputs)

    def _run(self, subject: Subject, name: str, *, on: bool) -> Outputs:
        state = tuple((key, value.numpy().tobytes()) for key, value in subject.model.state_dict().items())
        key = (hash(state), subject.body_only, on, self._key)
        if key not in self._memory:
            self._memory[key] = super()._run(subject, name, on=on)
        return self._memory[key]


class RememberedCase(CaseReference):
    def __init__(self, reference: Reference, inputs: Mapping[str, np.ndarray], rounding: int, memory: Memory) -> None:
        super().__init__(reference, inputs, rounding)
        base: BaseModel = reference.base
        self._memory = memory
        self._key = (base.info.sha256, base.task, base.module.dtype, rounding, _content(inputs))

    def on(self, adapter: Adapter) -> Outputs:
        return self._once(("on", _content(adapter_tensors(adapter))), lambda: super(RememberedCase, self).on(adapter))

    def off(self, adapter: Adapter | None = None) -> Outputs:
        head = _content(adapter_tensors(adapter)) if adapter else None
        return self._once(("off", head), lambda: super(RememberedCase, self).off(adapter))

    def _once(self, what: tuple[Any, ...], run: Callable[[], Outputs]) -> Outputs:
        key = (*self._key, *what)
        if key not in self._memory:
            self._memory[key] = run()
        return self._memory[key]


def _content(arrays: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
    return tuple((name, array.shape, array.tobytes()) for name, array in sorted(arrays.items()))
