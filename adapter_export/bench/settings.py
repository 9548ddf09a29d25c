"""What to measure."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_export.errors import InputError


@dataclass(frozen=True)
class BenchSettings:
    """batches, lengths: of the inputs, in every combination. repeats: rounds of each; None for as many as fit in
    `seconds`. threads: of ONNX Runtime's operators; None for its own choice."""

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
