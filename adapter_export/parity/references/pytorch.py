"""Computes R and T: the outputs of the model in PyTorch, with each adapter unmerged, by our own injection."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel
from adapter_export.models.heads import load_head, read_head
from adapter_export.models.injection import inject
from adapter_export.parity.recording.precision import everything_in_float64, rounded_otherwise
from adapter_export.parity.recording.subject import named_tensors

ModelOutputs = dict[str, np.ndarray]

# A forward pass with fewer multiply-adds than this runs in a single thread. On a busy machine two threads that wait for
# each other took 170 s for what one thread does in 13 s (MiniLM, the short cases of five adapters).
_SMALL_WORK = 1 << 30


class Reference:
    """The base model at the dtype of its module. It computes R if that is float64, and T otherwise.

    Loading a model in float64 is not enough for R: the code of many models casts norms, rotary positions and softmax to
    float32. This gives errors of 5e-7, as large as the errors to be judged, and NaN for masks of -inf. So every such
    cast is replaced by a cast to float64.

    Attributes:
        base: The base model.
        exact: Whether the dtype is float64.
        step: Relative size of a rounding of a layer's outputs.
        parameters: Number of parameters.
        own_head: The base model's own task head, as an adapter without blocks.
    """

    def __init__(self, base: BaseModel, step: float | None = None) -> None:
        """Keeps the model and reads its head.

        Args:
            base: The base model.
            step: Relative size of a rounding of a layer's outputs; None for half a unit in the last place of the dtype.
        """
        import torch

        self.base = base
        self.exact = base.module.dtype == torch.float64
        self.step = torch.finfo(base.module.dtype).eps / 2 if step is None else step
        self.parameters = sum(parameter.numel() for parameter in base.module.parameters())
        # Adapters may replace the task head. For adapters without a head this one is put back.
        own = base.module.config.id2label if base.info.head else {}
        head = read_head(base.module, base.info.head)
        self.own_head = Adapter("none", {}, head, tuple(str(own[i]) for i in sorted(own)) or None)

    def case(self, inputs: Mapping[str, np.ndarray], rounding: int = 0) -> CaseReference:
        """Returns the case for one set of inputs; its outputs are computed when they are asked for.

        Args:
            inputs: Arrays by name.
            rounding: 0 for the model as it is. Every other number is the seed of another rounding, see
                `rounded_otherwise`.
        """
        return CaseReference(self, inputs, rounding)


class CaseReference:
    """Computes the outputs for one set of inputs. The base model's body is run once for all task heads."""

    def __init__(self, reference: Reference, inputs: Mapping[str, np.ndarray], rounding: int = 0) -> None:
        import torch

        self._reference, self._rounding = reference, rounding
        dtype = reference.base.module.dtype
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
        self._inputs = {n: tensor.to(dtype) if tensor.is_floating_point() else tensor for n, tensor in tensors.items()}
        self._body: Any = None

    def on(self, adapter: Adapter) -> ModelOutputs:
        """Returns the outputs, by name, with the adapter: its blocks unmerged, and its task head if it has one."""
        with self.injected(adapter):
            return self.run()

    @contextmanager
    def injected(self, adapter: Adapter) -> Iterator[None]:
        """Returns a context in which the adapter is in the model, with its task head."""
        self.use_head(adapter)
        injection = inject(self._reference.base.module, adapter)
        try:
            yield
        finally:
            injection.remove()

    def off(self, adapter: Adapter | None = None) -> ModelOutputs:
        """Returns the outputs, by name, without any adapter, but with the task head of `adapter` if it has one."""
        self.use_head(adapter)
        # The body's outputs cannot be kept if the head begins inside the base model, or if the model class is its own
        # base model: another head then changes them.
        base = self._reference.base
        inside = adapter is not None and base.info.pooler in adapter.head
        inside = inside or base.module.base_model is base.module
        with nullcontext() if inside else self._body_once():
            return self.run()

    def use_head(self, adapter: Adapter | None) -> None:
        """Puts the task head of the adapter into the model; that of the base model if it has none."""
        load_head(self._reference.base.module, adapter if adapter and adapter.head else self._reference.own_head)

    @contextmanager
    def _body_once(self) -> Iterator[None]:
        """Returns a context in which the base model below the task head runs at most once per case."""
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

    def run(self) -> ModelOutputs:
        """Returns the outputs, by name, of the model in its current state.

        Raises:
            InputError: PyTorch cannot run the model with these inputs.
        """
        import torch

        module = self._reference.base.module
        # The graphs of a forward over a full text have no KV cache among their outputs.
        extra = {"use_cache": False} if getattr(module.config, "use_cache", False) else {}
        try:
            with torch.inference_mode(), few_threads(self._reference.parameters, self._inputs), self._precision():
                result = module(**self._inputs, **extra)
        except Exception as error:  # the code of a model may raise anything
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
    """Returns a context in which PyTorch uses one thread if a forward pass with these inputs is short.

    Args:
        parameters: Number of parameters of the model.
        inputs: Arrays or tensors by name.
    """
    import torch

    work = parameters * max(math.prod(value.shape) for value in inputs.values())
    before = torch.get_num_threads()
    torch.set_num_threads(1 if work < _SMALL_WORK else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
