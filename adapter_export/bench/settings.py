"""The settings of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_export.errors import InputError


@dataclass(frozen=True)
class Settings:
    """What to measure. Every batch size is combined with every length.

    Attributes:
        batches: Batch sizes.
        lengths: Lengths of the inputs, in tokens.
        repeats: Number of rounds for each batch size and length; None for as many as fit in `seconds`.
        seconds: Time for each batch size and length.
        threads: Number of threads for one operator; None for ONNX Runtime's default.
        provider: `cpu` or `cuda`.
    """

    batches: tuple[int, ...] = (1, 8)
    lengths: tuple[int, ...] = (16, 64)
    repeats: int | None = None
    seconds: float = 3.0
    threads: int | None = None
    provider: str = "cpu"

    def __post_init__(self) -> None:
        for name, values in (("batch", self.batches), ("length", self.lengths)):
            if not values or min(values) < 1:
                raise InputError(f"--{name}: expected whole numbers from 1, found {list(values)}")
            if len(set(values)) != len(values):
                raise InputError(f"--{name}: expected each number once, found {list(values)}")
