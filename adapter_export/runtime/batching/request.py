"""A row on its way into a batch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

# Outputs of one row by name, without the batch's axis.
Outputs = dict[str, np.ndarray]


@dataclass(eq=False)
class Request:
    """inputs: arrays of one row, without the batch's axis. length: its tokens. group: rows of unequal groups cannot be
    in one batch. future: its outputs. admitted: True as soon as it has a place in the queue, False when it gets
    none any more. arrived: when it asked for one.
    """

    inputs: Mapping[str, np.ndarray]
    adapter: str | None
    length: int
    group: Hashable
    future: Future[Outputs] = field(default_factory=Future)
    admitted: Future[bool] = field(default_factory=Future)
    arrived: float = 0.0
