"""Reads pickles as data: numbers, texts, containers of them, and markers for calls and classes.

Python's own unpickler executes a pickle and trusts it: a few bytes can make it take any amount of memory (the number of
a memo, the length of a byte array) or time (tuples of tuples as keys of a dictionary). This reader knows the operations
that `torch.save` writes, calls nothing, and refuses all others.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Operations of a pickle at most. A tensor takes some thirty; reading this many takes seconds.
_MAX_OPERATIONS = 2_000_000
_MARK = object()
_CONSTANTS = frozenset(
    {"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
     "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
)  # fmt: skip
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = frozenset({"PROTO", "FRAME"})


class BadPickle(Exception):
    """Says what is wrong with a pickle, in one line."""


@dataclass(frozen=True)
class Name:
    """A class or a function that a pickle names."""

    module: str
    name: str


@dataclass(frozen=True)
class PersistentId:
    """How a pickle refers to an object that is stored elsewhere."""

    said: Any


@dataclass(frozen=True)
class Call:
    """A call in a pickle, with its function and arguments."""

    function: Name
    arguments: tuple[Any, ...]


def read_pickle(content: io.BytesIO) -> Any:
    """Reads the next pickle in `content`, and leaves `content` behind its end.

    An ordered dictionary is read as a dictionary. The attributes of dictionaries are dropped.

    Raises:
        BadPickle: The pickle is broken, or holds anything else.
    """
    return _Machine().run(_operations(content))


def _operations(content: io.BytesIO) -> Iterator[tuple[str, Any]]:
    operations = pickletools.genops(content)
    for _ in range(_MAX_OPERATIONS):
        try:
            operation, argument, _ = next(operations)
        except StopIteration:
            return
        except (ValueError, OverflowError) as error:  # The pickle is broken or cut short.
            raise BadPickle(" ".join(str(error).split())[:200]) from None
        yield operation.name, argument
    raise BadPickle(f"more than {_MAX_OPERATIONS:,} operations")


class _Machine:
    """The state that a pickle's operations change: a stack, marks and a memo."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, operations: Iterator[tuple[str, Any]]) -> Any:
        for name, argument in operations:
            if name == "STOP":
                return self._pop()
            self._do(name, argument)
        raise BadPickle("no end")

    def _do(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self._stack.append(argument)
        elif name in _VALUES:
            self._stack.append(_VALUES[name])
        elif name in _TUPLES:
            items = [self._pop() for _ in range(_TUPLES[name])]
            self._stack.append(tuple(reversed(items)))
        elif not (self._container(name) or self._memory(name, argument) or self._marker(name, argument)):
            raise BadPickle(f"found the operation {name}, which no tensor needs")

    def _container(self, name: str) -> bool:
        match name:
            case "MARK":
                self._stack.append(_MARK)
            case "TUPLE":
                self._stack.append(tuple(self._marked()))
            case "EMPTY_LIST":
                self._stack.append([])
            case "LIST":
                self._stack.append(self._marked())
            case "APPEND" | "APPENDS":
                items = [self._pop()] if name == "APPEND" else self._marked()
                self._top(list).extend(items)
            case "EMPTY_DICT":
                self._stack.append({})
            case "DICT":
                self._stack.append(_pairs(self._marked()))
            case "SETITEM" | "SETITEMS":
                items = [self._pop(), self._pop()][::-1] if name == "SETITEM" else self._marked()
                self._top(dict).update(_pairs(items))
            case _:
                return False
        return True

    def _memory(self, name: str, argument: Any) -> bool:
        match name:
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._top(object)
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._top(object)
            case "GET" | "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    raise BadPickle("a value that was not kept")
                self._stack.append(self._memo[argument])
            case _:
                return name in _NOTHING
        return True

    def _marker(self, name: str, argument: Any) -> bool:
        match name:
            case "GLOBAL":
                self._stack.append(Name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                found, module = self._pop(), self._pop()
                if not isinstance(found, str) or not isinstance(module, str):
                    raise BadPickle("a name that is no text")
                self._stack.append(Name(module, found))
            case "REDUCE":
                arguments, function = self._pop(), self._pop()
                self._stack.append(_called(function, arguments))
            case "BUILD":
                self._pop()
                self._top(dict)
            case "BINPERSID":
                self._stack.append(PersistentId(self._pop()))
            case _:
                return False
        return True

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise BadPickle("a value is missing")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        if not self._stack or self._stack[-1] is _MARK or not isinstance(self._stack[-1], kind):
            raise BadPickle(f"expected a {kind.__name__} on the stack")
        return self._stack[-1]

    def _marked(self) -> list[Any]:
        """Returns all items above the last mark, and removes them and the mark."""
        items: list[Any] = []
        while self._stack:
            if (item := self._stack.pop()) is _MARK:
                return items[::-1]
            items.append(item)
        raise BadPickle("a mark is missing")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    """Returns a dictionary. Keys must be texts or numbers: hashing a tuple of tuples could take any time."""
    if len(items) % 2 or not all(isinstance(key, (str, int)) for key in items[::2]):
        raise BadPickle("expected texts or numbers as the keys of a dictionary")
    return dict(zip(items[::2], items[1::2], strict=True))


def _called(function: Any, arguments: Any) -> Any:
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise BadPickle("a call of what is no function")
    if function == Name("collections", "OrderedDict"):
        if arguments:
            raise BadPickle("a dictionary made of arguments")
        return {}
    return Call(function, arguments)
