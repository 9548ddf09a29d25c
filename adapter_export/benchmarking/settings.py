"""What to measure."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_export.errors import InputError


@dataclass(frozen=True)
class BenchSettings:
    """What is measured.

    Attributes:
        batches: Numbers of rows, each measured with each length.
        lengths: Numbers of tokens of the longest row.
        repeats: Number of rounds at each batch and length; None for as many as fit in `seconds`.
        seconds: Time for each batch and length.
        threads: Number of threads of ONNX Runtime's operators; None for its own choice.
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
        if self.repeats is not None and self.repeats < 1:
            raise InputError(f"--repeats: expected a whole number from 1, found {self.repeats}")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"--threads: expected a whole number from 1, found {self.threads}")
        if not self.seconds > 0:
            raise InputError(f"--seconds: expected a number above 0, found {self.seconds}")
