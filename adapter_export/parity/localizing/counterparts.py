"""Finds, for values of the graph, equal values that PyTorch computes on the way.

Inside of a module, nodes of a graph and functions of PyTorch have no names in common. But a right value of the graph
mostly is a value that PyTorch computes, too, in some order of its elements.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.parity.localizing.comparison import distance, joined, rows_of
from adapter_export.parity.references.pytorch import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

Arrays = Mapping[str, np.ndarray]

# The most bytes of values that are kept.
_MOST_BYTES = 1 << 30
# Functions that add a bias at the end, and its position among their arguments.
_WITH_BIAS = {"aten.linear": 2, "aten.conv1d": 2, "aten.conv2d": 2, "aten.addmm": 0}


class Counterparts:
    """The values that PyTorch computes while it runs a case.

    Attributes:
        masked: Whether a mask among the inputs of the case hides something.
    """

    def __init__(self, reference: Reference, inputs: Arrays, adapter: Adapter | None, *, on: bool) -> None:
        """Runs the case, with attention in single steps where the model has such code.

        Args:
            reference: The model.
            inputs: Arrays by name.
            adapter: The adapter; None for the base model.
            on: Whether the body of the adapter acts.
        """
        self._by_size: dict[int, list[np.ndarray]] = {}
        self._bytes, self._rows = 0, rows_of(inputs)
        self.masked = any(name.endswith("mask") and not value.all() for name, value in inputs.items())
        for value in inputs.values():
            self._keep(value)
        case = reference.case(inputs)
        case.use_head(adapter)
        injected = case.injected(adapter) if adapter is not None and on else nullcontext()
        with injected, _attention_in_steps(reference.base.module), _recorder(self._see):
            case.run()

    def has(self, runs: Sequence[np.ndarray], limit: float) -> bool:
        """Returns whether PyTorch computes this value.

        Args:
            runs: The value of the graph, one array for each step.
            limit: The largest error that agrees.
        """
        if not runs:
            return False
        shapes = {run.size for run in runs[-1:]} | {sum(run.size for run in runs)}
        return any(
            (actual := joined(runs, value.shape, self._rows)) is not None and distance(actual, value) <= limit
            for size in shapes
            for value in self._by_size.get(size, ())
        )

    def _see(self, function: str, args: Sequence[Any], output: torch.Tensor) -> None:
        self._keep(output.detach().numpy())
        position = _WITH_BIAS.get(function)
        if position is not None and len(args) > position and args[position] is not None:
            # The graph multiplies and adds the bias in two nodes.
            bias = args[position]
            shape = (-1, *[1] * (output.ndim - 2)) if "conv" in function else (-1,)
            self._keep((output - bias.reshape(shape)).detach().numpy())

    def _keep(self, value: np.ndarray) -> None:
        if self._bytes + value.nbytes <= _MOST_BYTES:
            self._bytes += value.nbytes
            self._by_size.setdefault(value.size, []).append(value.copy())


@contextmanager
def _recorder(see: Any) -> Iterator[None]:
    """Returns a context in which `see` is called with each tensor that PyTorch computes."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = func(*args, **(kwargs or {}))
            for item in output if isinstance(output, list | tuple) else (output,):
                if isinstance(item, torch.Tensor) and item.dtype not in (torch.bfloat16, torch.complex128):
                    with torch.utils._python_dispatch._disable_current_modes():
                        see(str(func.overloadpacket), args, item)
            return output

    with Recorder():  # type: ignore[no-untyped-call]
        yield


@contextmanager
def _attention_in_steps(module: Any) -> Iterator[None]:
    """Returns a context in which attention computes scores and their softmax as values of their own."""
    before = module.config._attn_implementation
    try:
        module.set_attn_implementation("eager")
    except (ValueError, AttributeError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        module.set_attn_implementation(before)


def first_without(
    names: Sequence[str],
    runs: Mapping[str, Sequence[np.ndarray]],
    reads: Callable[[str], Collection[str]],
    found: Counterparts,
    limit: float,
) -> str:
    """Returns the first value of the graph that departs, between values that agree and one that departs.

    It has no counterpart, all that its node reads has one, and the last value is computed from it by values that have
    none either.

    Args:
        names: The values, in the order of computation. The last one departs.
        runs: The arrays of each value, one for each step.
        reads: Returns the values that the node of a value reads.
        found: The values of PyTorch.
        limit: The largest error that agrees.
    """
    last = names[-1]
    agreed = {name for name in names if name != last and found.has(runs.get(name, ()), limit)}
    behind, pending = {last}, [last]
    while pending:
        new = {name for name in reads(pending.pop()) if name in names and name not in agreed} - behind
        behind |= new
        pending += new
    without = [name for name in names if name in behind]
    # A mask that masks nothing is one value throughout, and PyTorch may have left it out.
    varied = [name for name in without if not _takes_few_values(runs.get(name, ()), 1)] or without
    if found.masked:
        return varied[0]

    def reads_data(name: str) -> bool:
        return any(read not in names or not _takes_few_values(runs.get(read, ()), 2) for read in reads(name))

    return next((name for name in varied if reads_data(name)), varied[0])


def _takes_few_values(runs: Sequence[np.ndarray], most: int) -> bool:
    """Whether an array has at most so many different numbers, as a mask has."""
    return all(len(np.unique(run)) <= most for run in runs)
