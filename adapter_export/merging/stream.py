"""Writes the planned files. Changed tensors go through memory piece by piece; all other bytes are copied."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import numpy as np

from adapter_export.merging.copying import Tick, clone, copy_range, read_at, write_at
from adapter_export.merging.piecewise import TensorChange
from adapter_export.merging.plan import FilePlan
from adapter_export.merging.rounding import STORED
from adapter_export.reading.files import open_raw


def write_file(plan: FilePlan, target: Path, tick: Tick) -> None:
    """Writes one planned file.

    Args:
        plan: The plan.
        target: Path of the file, which must not exist yet.
        tick: Called with the number of bytes, whenever some are done.

    Raises:
        OSError: Reading or writing fails.
        InputError: The input file became shorter meanwhile.
        CannotMerge: A result is not finite.
    """
    data, start = plan.source.start, len(plan.header)
    with open_raw(plan.source.path) as source, FileIO(target, "xb") as made:
        # Sharing extents takes no time. Then only the changed tensors are written over the shared content.
        shared = plan.aligned and clone(source, made)
        if not shared:
            write_at(made, 0, plan.header)
        tick(start)
        for begin, end, at in _unchanged(plan):
            if shared:
                tick(end - begin)
            else:
                copy_range(source, data + begin, made, start + at, end - begin, tick)
        for part in plan.parts:
            if part.content is not None:
                write_at(made, start + part.entry.begin, np.ascontiguousarray(part.content).tobytes())
                tick(part.entry.size)
            elif part.change is not None and part.source is not None:
                _rescale(part.change, source, data + part.source.begin, made, start + part.entry.begin, tick)


def check_file(plan: FilePlan) -> None:
    """Compute what `write_file` would write, and drop it. Raises CannotMerge for a result that is not finite."""
    with open_raw(plan.source.path) as source:
        for part in plan.parts:
            if part.change is not None and part.source is not None:
                for _ in _rescaled(part.change, source, plan.source.start + part.source.begin):
                    pass


def copy_file(source: Path, root: Path, target: Path, tick: Tick) -> None:
    """Copies a whole file of the folder `root` to a path that does not exist yet."""
    with open_raw(source, root) as given, FileIO(target, "xb") as made:
        size = os.fstat(given.fileno()).st_size
        if clone(given, made):
            tick(size)
        else:
            copy_range(given, 0, made, 0, size, tick)


def _unchanged(plan: FilePlan) -> Iterator[tuple[int, int, int]]:
    """Yields the longest ranges of the input's data that are copied as they are: begin, end, begin in the output."""
    run: tuple[int, int, int] | None = None
    for part in plan.parts:
        if part.source is None or part.change is not None or not part.entry.size:
            continue
        if run is not None and part.source.begin == run[1] and part.entry.begin == run[2] + run[1] - run[0]:
            run = (run[0], part.source.end, run[2])
            continue
        if run is not None:
            yield run
        run = (part.source.begin, part.source.end, part.entry.begin)
    if run is not None:
        yield run


def _rescale(change: TensorChange, source: FileIO, begin: int, target: FileIO, at: int, tick: Tick) -> None:
    """Reads, changes and writes a tensor piece by piece."""
    for piece in _rescaled(change, source, begin):
        write_at(target, at, piece.data)
        at += piece.nbytes
        tick(piece.nbytes)


def _rescaled(change: TensorChange, source: FileIO, begin: int) -> Iterator[np.ndarray]:
    """Reads and changes a tensor piece by piece. Its pieces are consecutive in the file."""
    dtype = STORED[change.dtype]
    for rows, columns in change.pieces():
        size = (rows.stop - rows.start) * (columns.stop - columns.start) * dtype.itemsize
        stored = np.frombuffer(read_at(source, begin, size), dtype)
        yield change.apply(stored, rows, columns).reshape(-1)
        begin += size
