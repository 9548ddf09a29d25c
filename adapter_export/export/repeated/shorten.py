"""Makes a model shorter for a trace: only some layers of its stacks run, and each marks where it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from adapter_export.export.markers import LAYER, emit
from adapter_export.export.repeated.stacks import Stack, configs, counts, lists

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextmanager
def shortened(model: Any, stacks: Sequence[Stack]) -> Iterator[None]:
    """Inside the block, only the kept layers of the stacks are in the model.

    The paths of the layers stay. Their own numbers, by which they find their cache, are counted anew without gaps. The
    model's configs are changed to fit.

    Args:
        model: The model, a `PreTrainedModel`.
        stacks: Stacks of it.
    """
    with ExitStack() as undo:
        for stack in stacks:
            listed = model.get_submodule(stack.path)
            _replace(undo, listed, "_modules", {str(number): stack.layers[number] for number in stack.kept})
            for position, number in enumerate(stack.kept):
                for path, name in stack.numbered:
                    _replace(undo, stack.layers[number].get_submodule(path), name, position)
            for config in configs(model):
                for name in [*counts(config, len(stack.layers))]:
                    _replace(undo, config, name, len(stack.kept))
                for name in [*lists(config, len(stack.layers))]:
                    values = getattr(config, name)
                    _replace(undo, config, name, type(values)(values[number] for number in stack.kept))
        yield


def _replace(undo: ExitStack, owner: Any, name: str, value: Any) -> None:
    before = vars(owner)[name]
    undo.callback(vars(owner).__setitem__, name, before)
    vars(owner)[name] = value


@contextmanager
def ends_marked(stacks: Sequence[Stack]) -> Iterator[None]:
    """Inside the block, each kept layer is traced with a marker on its output.

    Args:
        stacks: The stacks.
    """
    handles = [
        stack.layers[number].register_forward_hook(_end(stack.path, number))
        for stack in stacks
        for number in stack.kept
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _end(path: str, number: int) -> Any:
    def marked(output: torch.Tensor) -> torch.Tensor:
        return emit(LAYER, (output,), {"stack": path, "number": number}, output, output.shape)

    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (marked(output[0]), *output[1:])
        return marked(output)

    return hook
