"""Keeps what PyTorch computes during a check, and writes it into a file."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.outputs.files import atomic_file
from adapter_export.parity.bundle_records.about import About, CaseInfo
from adapter_export.parity.bundle_records.columns import Columns
from adapter_export.parity.cases import ParityCase, kept_positions
from adapter_export.parity.expected import Arrays, Expected, ExpectedTokens, Observer, StateReference
from adapter_export.parity.report import NO_ADAPTER

# In place of the name of an adapter. No adapter can have this name.
NONE = "-"
EXACT, TARGET, ROUNDED = "exact", "target", "rounded"
NEW = ("tokens", "choice", "margin", "scores")


class CaseRecorder:
    """Keeps the inputs and PyTorch's outputs of all cases. A case that is run again replaces what was kept of it."""

    def __init__(self, manifest: Manifest) -> None:
        self._columns = Columns.of(manifest)
        self._cases: dict[ParityCase, tuple[int, dict[str, np.ndarray]]] = {}
        self._checks: dict[str, np.ndarray] = {}

    @property
    def cases(self) -> tuple[CaseInfo, ...]:
        """The cases in the order in which they were first run."""
        return tuple(CaseInfo.of(case, roundings) for case, (roundings, _) in self._cases.items())

    @property
    def widths(self) -> Mapping[str, int]:
        """Number of columns of the outputs of which not all columns are kept."""
        return self._columns.widths

    def begin(self, case: ParityCase, inputs: Arrays, roundings: int) -> Observer:
        """Begins a case.

        Args:
            case: The case.
            inputs: Arrays by name.
            roundings: Number of roundings of T by which the case is judged.

        Returns:
            A function that keeps outputs of this case.
        """
        return self._begin(case, {f"input/{name}": value for name, value in inputs.items()}, roundings, inputs)

    def begin_generation(self, case: ParityCase, prompts: Sequence[Any], roundings: int) -> Observer:
        """Begins a case that generates. See `begin`."""
        return self._begin(case, {f"prompt/{row}": np.asarray(value) for row, value in enumerate(prompts)}, roundings)

    def keep_checks(self, swap: Arrays, rows: Arrays) -> None:
        """Keeps the inputs of the checks `swap` and `rows`."""
        for check, inputs in (("swap", swap), ("rows", rows)):
            self._checks |= {f"check/{check}/{name}": value for name, value in inputs.items()}

    def save(self, path: Path, about: About) -> None:
        """Writes the record, as a whole or not at all. Raises OSError."""
        arrays = {
            f"{number}/{name}": value
            for number, (_, found) in enumerate(self._cases.values())
            for name, value in found.items()
        }
        arrays |= self._checks | {f"columns/{name}": value for name, value in self._columns.numbers.items()}
        content = io.BytesIO()
        meta = np.array(json.dumps(asdict(about)))
        np.savez_compressed(content, allow_pickle=False, meta=meta, **arrays)
        atomic_file(path, content.getvalue())

    def _begin(
        self, case: ParityCase, arrays: dict[str, np.ndarray], roundings: int, inputs: Arrays | None = None
    ) -> Observer:
        self._cases[case] = (roundings, arrays)

        def observe(item: Expected | ExpectedTokens) -> None:
            expected = item if isinstance(item, Expected) else item.expected
            name = NONE if expected.adapter == NO_ADAPTER else expected.adapter
            for state, reference in (("on", expected.on), ("off", expected.off)):
                if reference is not None:
                    found = self._of_state(reference, inputs)
                    arrays.update({f"{name}/{state}/{key}": value for key, value in found.items()})
            if isinstance(item, ExpectedTokens):
                scores = self._columns.select_of("logits", item.scores)
                new = {"tokens": item.tokens, "choice": item.choice, "margin": item.margin, "scores": scores}
                arrays.update({f"{name}/new/{key}": value for key, value in new.items()})

        return observe

    def _of_state(self, reference: StateReference, inputs: Arrays | None) -> dict[str, np.ndarray]:
        """Returns the arrays to keep of one state, by kind and output."""
        exact = self._columns.select(reference[0])
        # T may have outputs that the graph of another tool lacks, and R not.
        targets = [{name: target[name] for name in exact} for target in reference[1]]
        first, *others = map(self._columns.select, targets)
        found = {f"{EXACT}/{name}": value for name, value in exact.items()}
        found |= {f"{TARGET}/{name}": value for name, value in first.items()}
        for name, value in exact.items():
            kept = None if inputs is None else kept_positions(inputs, value)
            distances = [_distance(other[name], value, kept) for other in others]
            found[f"{ROUNDED}/{name}"] = others[int(np.argmax(distances))][name]
        return found


def _distance(actual: np.ndarray, expected: np.ndarray, kept: np.ndarray | None) -> float:
    """Returns the largest difference over the kept positions; infinity if a value is NaN."""
    if kept is not None:
        actual, expected = actual[kept], expected[kept]
    largest = float(np.abs(actual.astype(np.float64) - expected).max(initial=0.0))
    return math.inf if math.isnan(largest) else largest
