"""What a runtime is asked to compute, and what it answers: JSON, as a program in any language can read and write.

A job:
    model        path of the graph
    binding      "initializer" or "input" where the graph takes the tensors of adapters, "" where it takes none
    adapters     name -> {"file": path or null, "tensors": name -> array}; with "input", "" is no adapter, and the
                 tensors are all that a run needs
    sequences    [{"adapter": name or null, "steps": [{"feeds": name -> array, "carry": input -> output}]}]: runs one
                 after the other; an input in `carry` is that output of the run before
    outputs      names of the outputs that are asked for
    last         whether of each output only the last position of the axis 1 is asked for
An array is {"type": "float32" or "int64", "dims": [...], "data": base64 of the numbers}.

An answer: {"version": text, "answers": for each sequence, for each step, name of the output -> array}, or
{"version": text, "refused": text}.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """One run. feeds: inputs by name. carry: inputs that are outputs of the run before, by their names."""

    feeds: Arrays
    carry: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Runs:
    """Runs of one adapter, or of none, one after the other. expected: the outputs of each in float64."""

    adapter: str | None
    steps: Sequence[Step]
    expected: Sequence[Arrays]


@dataclass(frozen=True)
class AdapterFile:
    """file: the adapter alone. tensors: what a run is fed with that adapter."""

    file: Path | None
    tensors: Arrays


@dataclass(frozen=True)
class Job:
    """See the head of this file. bundle: the folder of the graph `model`."""

    bundle: Path
    model: Path
    binding: str
    adapters: Mapping[str, AdapterFile]
    runs: Sequence[Runs]
    outputs: Sequence[str]
    last: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "model": str(self.model),
            "binding": self.binding,
            "adapters": {
                name: {"file": str(item.file) if item.file else None, "tensors": arrays_to_json(item.tensors)}
                for name, item in self.adapters.items()
            },
            "sequences": [
                {
                    "adapter": one.adapter,
                    "steps": [{"feeds": arrays_to_json(step.feeds), "carry": dict(step.carry)} for step in one.steps],
                }
                for one in self.runs
            ],
            "outputs": list(self.outputs),
            "last": self.last,
        }


def arrays_to_json(arrays: Arrays) -> dict[str, Any]:
    return {
        name: {
            "type": value.dtype.name,
            "dims": list(value.shape),
            "data": base64.b64encode(np.ascontiguousarray(value).tobytes()).decode(),
        }
        for name, value in arrays.items()
    }


def arrays_from_json(arrays: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(base64.b64decode(value["data"]), value["type"]).reshape(value["dims"])
        for name, value in arrays.items()
    }
