"""Fixed sets of values that users write as words, such as modes and providers."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from adapter_export.errors import InputError

C = TypeVar("C", bound="Choice")


class Choice(str, Enum):
    """A value out of a fixed set. It is a string too: files, messages and callers see the plain word."""

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return repr(self.value)

    @classmethod
    def parse(cls: type[C], value: str, name: str) -> C:
        """Returns the member with this value.

        Args:
            value: The word that a caller gave.
            name: What the caller calls it, for the error message.

        Raises:
            InputError: The word is not one of the set.
        """
        try:
            return cls(value)
        except ValueError:
            raise InputError(f"{name} {value!r}: expected one of {cls.listed()}") from None

    @classmethod
    def words(cls) -> tuple[str, ...]:
        """Returns the values of all members, in the order of their definition."""
        return tuple(member.value for member in cls)

    @classmethod
    def listed(cls) -> str:
        """Returns the values of all members as one text, for messages."""
        return ", ".join(cls.words())
