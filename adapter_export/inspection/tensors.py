"""Shows many tensors in few lines: tensors of one shape whose names differ in numbers only are one group."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from adapter_export.inspection.descriptions import TensorGroup

# A part of a dotted name that is a number: `encoder.layer.3.output`. Longer digits are not the number of a layer.
_NUMBER = re.compile(r"(?<![^.])[0-9]{1,18}(?![^.])")


@dataclass(frozen=True)
class Tensor:
    """A tensor.

    Attributes:
        name: Its name.
        dtype: Its dtype.
        shape: Its shape. Adapters may differ in a named dim.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def parameters(self) -> int | None:
        """Number of values; None with a named dim."""
        sizes = [dim for dim in self.shape if isinstance(dim, int)]
        return math.prod(sizes) if len(sizes) == len(self.shape) else None


def grouped(tensors: Iterable[Tensor]) -> tuple[TensorGroup, ...]:
    """Returns the tensors in groups, in the order of the first tensor of each."""
    groups: dict[tuple[Any, ...], list[Tensor]] = {}
    for tensor in tensors:
        # A named dim contains the site's name, so within a group it may differ in numbers as well.
        dims = tuple(_around(dim) if isinstance(dim, str) else dim for dim in tensor.shape)
        groups.setdefault((_around(tensor.name), tensor.dtype, dims), []).append(tensor)
    return tuple(
        TensorGroup(
            collapsed([tensor.name for tensor in members]),
            len(members),
            members[0].dtype,
            tuple(dim.rpartition(".")[2] if isinstance(dim, str) else dim for dim in members[0].shape),
            total(members),
        )
        for members in groups.values()
    )


def total(tensors: Iterable[Tensor]) -> int | None:
    """Returns the number of values of all tensors; None if one has a named dim."""
    counts = [tensor.parameters for tensor in tensors]
    return sum(count for count in counts if count is not None) if None not in counts else None


def families(names: Iterable[str]) -> list[str]:
    """Returns the names; names that differ in numbers only become one."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        groups.setdefault(_around(name), []).append(name)
    return [collapsed(members) for members in groups.values()]


def _around(name: str) -> tuple[str, ...]:
    """Returns the parts of a name before, between and after its numbers."""
    return tuple(_NUMBER.split(name))


def collapsed(names: Sequence[str]) -> str:
    """Returns one name for names that differ in numbers only: `layer.{0-2,5}.output`."""
    columns = zip(*(_NUMBER.findall(name) for name in names), strict=True)
    shown = iter([_ranges({int(number) for number in column}) for column in columns])
    return _NUMBER.sub(lambda _: next(shown), names[0])


def _ranges(numbers: set[int]) -> str:
    if len(numbers) == 1:
        return str(min(numbers))
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return "{" + ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) + "}"
