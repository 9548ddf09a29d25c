"""What the values of a file's field may be, declared with the field's type: `Annotated[int, Between(0, 8)]`.

A number that is out of all proportion is refused where it is read, by its field, not where a library gives up on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Between:
    """Numbers from low to high, both included; neither NaN nor infinity."""

    low: float
    high: float

    def allows(self, value: Any) -> bool:
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        return f"a number from {self.low:,} to {self.high:,}"


@dataclass(frozen=True)
class OneOf:
    """One of some strings."""

    values: tuple[str, ...]

    def allows(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return f"one of {', '.join(self.values)}"


@dataclass(frozen=True)
class Hexadecimal:
    """Digits of base 16, in lower case; or nothing, where that is allowed."""

    digits: int
    empty: bool = False

    def allows(self, value: Any) -> bool:
        return (self.empty and value == "") or (len(value) == self.digits and {*value} <= {*"0123456789abcdef"})

    def __str__(self) -> str:
        return f"{self.digits} hexadecimal digits"


# Features, tokens, labels, positions, token ids: what PyTorch and ONNX count in 32 bits.
Size = Annotated[int, Between(0, (1 << 31) - 1)]
# Values of tensors, which are of single precision.
Real = Annotated[float, Between(-3.4e38, 3.4e38)]
Sha256 = Annotated[str, Hexadecimal(64)]
# The same, or nothing for what is in no file.
OptionalSha256 = Annotated[str, Hexadecimal(64, empty=True)]
