"""Changes to input that keep its outer form, so that they reach what stands behind it: a JSON text stays one, the
length before a safetensors header fits, the checksums of an archive are right."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

# Changes bytes: (data, most bytes of the result) -> data.
Flip = Callable[[bytes, int], bytes]
Mutator = Callable[[bytes, int, random.Random, Flip], bytes]

# Values that a field may have and nobody expects.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3.5, 1e30, 1e308, -1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**400,
    "", "x", "\u0000", "\n", "\x1b[31m", "\ud800", "ü\u2028", "a" * 5000, "../x", "/", "(", "[[a]", ".*", r"\1", "{}",
    [], [[]], [None], [1, 2], [-1], [2**63], ["x", 3], [[[[[[]]]]]], {}, {"": {}}, {"a": None}, {"0": "x"},
)  # fmt: skip


def scramble(rng: random.Random) -> Flip:
    """Changes of bytes for those who have no fuzzer to make them."""

    def change(data: bytes, most: int) -> bytes:
        content = bytearray(data or b"\0")
        place = rng.randrange(len(content))
        match rng.randrange(5):
            case 0:
                content[place] ^= 1 << rng.randrange(8)
            case 1:
                content[place : place + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(1, 9))
            case 2:
                del content[place:]
            case 3:
                del content[place : place + rng.randrange(1, 50)]
            case _:
                content[place:place] = content[place : place + rng.randrange(1, 50)]
        return bytes(content[:most])

    return change


def plain(data: bytes, most: int, rng: random.Random, flip: Flip) -> bytes:
    return flip(data, most)


def of_json(data: bytes, most: int, rng: random.Random, flip: Flip) -> bytes:
    """One value anywhere in it becomes another, goes, comes anew, or changes its place."""
    try:
        value = json.loads(data)
        places = list(_places(value))
    except (ValueError, RecursionError):
        return flip(data, most)
    if not places or rng.random() < 0.1:
        return flip(data, most)
    owner, key = rng.choice(places)
    match rng.randrange(10):
        case 0:
            del owner[key]
        case 1:
            other, place = rng.choice(places)
            owner[key] = other.get(place) if isinstance(other, dict) else None
        case 2 if isinstance(owner, dict):
            owner[rng.choice(("new", "", "\n", str(key)[1:], f"{key}x"))] = owner.pop(key)
        case 3 if isinstance(owner, dict):
            owner["new"] = rng.choice(ODD)
        case 4 if isinstance(owner[key], str):
            owner[key] = flip(owner[key].encode("utf-8", "surrogatepass"), most).decode("utf-8", "replace")
        case 5 if type(owner[key]) is int:
            owner[key] = rng.choice((-owner[key], owner[key] + 1, owner[key] * 2**32, [owner[key]]))
        case 6:
            owner[key] = [owner[key]] * rng.choice((1, 2, 1000))
        case _:
            owner[key] = rng.choice(ODD)
    try:
        return json.dumps(value).encode()[:most]
    except (ValueError, RecursionError):  # a value that now holds itself
        return flip(data, most)


def of_lines(data: bytes, most: int, rng: random.Random, flip: Flip) -> bytes:
    """One line, as JSON."""
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    lines[number] = of_json(lines[number], most, rng, flip)
    return b"\n".join(lines)[:most]


def of_safetensors(data: bytes, most: int, rng: random.Random, flip: Flip) -> bytes:
    """The header, as JSON, and the length before it."""
    end = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or end > len(data) or rng.random() < 0.2:
        return flip(data, most)
    header = of_json(data[8:end], most, rng, flip)
    return (struct.pack("<Q", len(header)) + header + data[end:])[:most]


def of_archive(data: bytes, most: int, rng: random.Random, flip: Flip) -> bytes:
    """One file in the archive, or its name."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [(item.filename, archive.read(item)) for item in archive.infolist() if item.file_size <= most]
    except Exception:  # whatever a broken one raises: this is no parser of ours
        return flip(data, most)
    if not files or rng.random() < 0.1:
        return flip(data, most)
    number = rng.randrange(len(files))
    name, content = files[number]
    match rng.randrange(8):
        case 0:
            files.pop(number)
        case 1:
            files[number] = (flip(name.encode(), 200).decode("utf-8", "replace") or "x", content)
        case 2:
            files[number] = (rng.choice(files)[0], content)
        case _:
            files[number] = (name, flip(content, most))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in dict(files).items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return packed.getvalue()[:most]


def _places(value: Any) -> Any:
    """(owner, key) of every value in it."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(pairs):
        yield value, key
        yield from _places(item)
