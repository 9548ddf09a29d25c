"""Which columns of wide outputs a record keeps: the logits of a language model have too many for a file."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.parity.expected import Arrays
from adapter_export.parity.whole_model import whole_model_outputs

# An output with more columns than WIDE is recorded in KEPT of them.
WIDE, KEPT = 1024, 256


class Columns:
    """The columns that are kept of wide outputs.

    Attributes:
        widths: Number of all columns, by output.
        numbers: The numbers of the kept columns, ascending, by output.
    """

    def __init__(self, widths: Mapping[str, int], numbers: Mapping[str, np.ndarray]) -> None:
        self.widths, self.numbers = widths, numbers

    @classmethod
    def of(cls, manifest: Manifest) -> Columns:
        """Chooses KEPT columns of each output that has more than WIDE.

        The columns are random, so that a mistake in a part of them cannot hide.
        """
        dims = {name: info.shape[-1] for name, info in whole_model_outputs(manifest).items() if info.shape}
        widths = {name: dim for name, dim in dims.items() if isinstance(dim, int) and dim > WIDE}
        return cls(
            widths,
            {
                name: np.sort(np.random.default_rng(width).choice(width, KEPT, replace=False))
                for name, width in widths.items()
            },
        )

    def select(self, outputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the outputs with the kept columns. An output of an unexpected width stays as it is."""
        return {name: self.select_of(name, value) for name, value in outputs.items()}

    def select_of(self, output: str, value: np.ndarray) -> np.ndarray:
        """Returns the kept columns of one output."""
        if output not in self.numbers or value.shape[-1:] != (self.widths[output],):
            return value
        kept: np.ndarray = value[..., self.numbers[output]]
        return kept
