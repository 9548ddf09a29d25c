"""What the outputs should be: the model in PyTorch, with each adapter unmerged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from adapter_export.basemodel import BaseModel
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import InputError
from adapter_export.injection import inject, load_head, read_head
from adapter_export.parity.recording.precision import everything_in_float64, rounded_otherwise
from adapter_export.parity.recording.subject import named_tensors

Outputs = dict[str, np.ndarray]

# Multiply-adds of a forward pass below which PyTorch gets one thread: on a busy machine two that wait for each other
# took 170 s for what one does in 13 s (MiniLM, the short cases of five adapters).
_SMALL_WORK = 1 << 30


class Reference:
    """The base model at its module's dtype; `case` gives its outputs for one set of inputs.

    With a float64 module this is R. Loading in float64 is not enough for that: norms, rotary positions and softmax of
    many models cast to float32 by themselves (errors of 5e-7, as large as what is to be judged, and masks of -inf that
    give NaN), so every such cast is lifted to float64 too.
    """

    def __init__(self, base: BaseModel, step: float | None = None) -> None:
        """step: relative size of what rounding changes in a layer's outputs; None is half a unit of the dtype."""
        import torch

        self.base = base
        self.exact = base.module.dtype == torch.float64
        self.step = torch.finfo(base.module.dtype).eps / 2 if step is None else step
        self.parameters = sum(parameter.numel() for parameter in base.module.parameters())
        # Adapters bring heads of their own; this one goes back in for what has none.
        own = base.module.config.id2label if base.info.head else {}
        head = read_head(base.module, base.info.head)
        self.own_head = Adapter("none", {}, head, tuple(str(own[i]) for i in sorted(own)) or None)

    def case(self, inputs: Mapping[str, np.ndarray], rounding: int = 0) -> CaseReference:
        """rounding: 0 is the model as it is, every other number a way of its own to round (`rounded_otherwise`)."""
        return CaseReference(self, inputs, rounding)


class CaseReference:
    """Outputs for one set of inputs. What the base model's body computes is computed once, whatever head follows."""

    def __init__(self, reference: Reference, inputs: Mapping[str, np.ndarray], rounding: int = 0) -> None:
        import torch

        self._reference, self._rounding = reference, rounding
        dtype = reference.base.module.dtype
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
        self._inputs = {n: tensor.to(dtype) if tensor.is_floating_point() else tensor for n, tensor in tensors.items()}
        self._body: Any = None

    def on(self, adapter: Adapter) -> Outputs:
        """With the whole adapter: its blocks unmerged, and its task head where it has one."""
        with self.injected(adapter):
            return self.run()

    @contextmanager
    def injected(self, adapter: Adapter) -> Iterator[None]:
        """Inside the block the whole adapter is in the model."""
        self._load_head(adapter)
        injection = inject(self._reference.base.module, adapter)
        try:
            yield
        finally:
            injection.remove()

    def off(self, adapter: Adapter | None = None) -> Outputs:
        """Without any adapter; with the task head of `adapter` where one is given and has one."""
        self._load_head(adapter)
        # A head that begins inside the base model changes what that gives; all of it, where the class is its own base.
        base = self._reference.base
        inside = adapter is not None and base.info.pooler in adapter.head
        inside = inside or base.module.base_model is base.module
        with nullcontext() if inside else self._body_once():
            return self.run()

    def _load_head(self, adapter: Adapter | None) -> None:
        load_head(self._reference.base.module, adapter if adapter and adapter.head else self._reference.own_head)

    @contextmanager
    def _body_once(self) -> Iterator[None]:
        """Inside the block the base model under the task class is run at most once a case, and then remembered."""
        body = self._reference.base.module.base_model
        forward = body.forward

        def once(*args: Any, **kwargs: Any) -> Any:
            if self._body is None:
                self._body = forward(*args, **kwargs)
            return self._body

        body.forward = once
        try:
            yield
        finally:
            del body.forward

    def run(self) -> Outputs:
        """The outputs of the model as it is now."""
        import torch

        module = self._reference.base.module
        # A cache is no output of a graph that scores or classifies.
        extra = {"use_cache": False} if getattr(module.config, "use_cache", False) else {}
        try:
            with torch.inference_mode(), few_threads(self._reference.parameters, self._inputs), self._precision():
                result = module(**self._inputs, **extra)
        except Exception as error:  # a model raises what it likes
            folder = self._reference.base.folder
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in self._inputs.items())
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"model {folder}: PyTorch itself cannot run {shapes}: {reason}") from error
        return dict(named_tensors(result))

    def _precision(self) -> AbstractContextManager[Any]:
        if self._rounding:
            return rounded_otherwise(self._reference.base.module, self._reference.step, self._rounding)
        return everything_in_float64() if self._reference.exact else nullcontext()


@contextmanager
def few_threads(parameters: int, inputs: Mapping[str, Any]) -> Iterator[None]:
    """Inside the block PyTorch has one thread where a forward pass with those inputs is little work.

    parameters: of the model. inputs: arrays or tensors of PyTorch.
    """
    import torch

    work = parameters * max(math.prod(value.shape) for value in inputs.values())
    before = torch.get_num_threads()
    torch.set_num_threads(1 if work < _SMALL_WORK else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
