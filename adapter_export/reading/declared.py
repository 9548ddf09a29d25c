"""The allowed values of a file's field, declared with its type: `Annotated[int, Between(0, 8)]`.

A number that is far too large is refused where it is read, with the name of its field, and not where a library fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Between:
    """Numbers from low to high, both included, without NaN and infinity."""

    low: float
    high: float

    def allows(self, value: Any) -> bool:
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        return f"a number from {self.low:,} to {self.high:,}"


@dataclass(frozen=True)
class OneOf:
    """One of several strings."""

    values: tuple[str, ...]

    def allows(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return f"one of {', '.join(self.values)}"


@dataclass(frozen=True)
class Hexadecimal:
    """Lower-case hexadecimal digits.

    Attributes:
        digits: Number of digits.
        empty: Whether the empty string is allowed too.
    """

    digits: int
    empty: bool = False

    def allows(self, value: Any) -> bool:
        return (self.empty and value == "") or (len(value) == self.digits and {*value} <= {*"0123456789abcdef"})

    def __str__(self) -> str:
        return f"{self.digits} hexadecimal digits"


# Numbers of features, tokens, labels and positions, and token ids, which PyTorch and ONNX hold in 32 bits.
Size = Annotated[int, Between(0, (1 << 31) - 1)]
# Values of tensors in single precision.
Real = Annotated[float, Between(-3.4e38, 3.4e38)]
Sha256 = Annotated[str, Hexadecimal(64)]
# A digest, or the empty string if there is no file.
OptionalSha256 = Annotated[str, Hexadecimal(64, empty=True)]
