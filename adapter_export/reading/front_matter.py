"""Reads fields of the YAML block at the beginning of a README.md, as the Hugging Face hub writes it.

    ---
    license: apache-2.0
    base_model: org/name
    ---

The block of a model may have thousands of lines with results, and YAML can make small texts very large. So only the
lines of the fields that are asked for are parsed, as texts and lists of texts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

_MARK = "---"
# Bytes of the lines that are parsed. The value of a field in use has at most a few hundred.
_MAX_BYTES = 16 << 10
_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)[ \t]*:(?=\s|$)")
# The beginnings of lines that belong to the field above them.
_CONTINUED = (" ", "\t", "-")

Value = str | list[str]


class BrokenFrontMatter(ValueError):
    """The block cannot be read. The message says why, in one line."""


def front_matter(data: bytes, names: Collection[str]) -> Mapping[str, Value]:
    """Returns those of the fields that the block has: texts, and lists of texts.

    Args:
        data: The bytes of the file, or its beginning.
        names: Names of the fields.

    Returns:
        The fields by name; none without a block.

    Raises:
        BrokenFrontMatter: The block has no end, is no YAML, or a field is neither a text nor a list of texts.
    """
    block = _block(data)
    text = "\n".join(_lines_of(block, names))
    if not text:
        return {}
    if len(text) > _MAX_BYTES:
        raise BrokenFrontMatter(f"more than {_MAX_BYTES >> 10} KiB in {', '.join(names)}")
    import yaml

    try:
        # This loader makes texts and containers only: `no` and `1.0` stay texts.
        value = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BrokenFrontMatter(f"no YAML: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(value, dict):
        raise BrokenFrontMatter("no YAML: expected fields")
    for name, item in value.items():
        if not isinstance(item, str) and not (isinstance(item, list) and all(isinstance(one, str) for one in item)):
            raise BrokenFrontMatter(f"field {name!r:.60}: expected a text or a list of texts")
    return {name: item for name, item in value.items() if name in names}


def _block(data: bytes) -> list[str]:
    """Returns the lines between the two marks; none if the file does not begin with a mark."""
    first, *rest = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if first.rstrip() != _MARK.encode():
        return []
    for number, line in enumerate(rest):
        if line.rstrip() == _MARK.encode():
            try:
                return b"\n".join(rest[:number]).decode("utf-8").split("\n")
            except UnicodeDecodeError as error:
                raise BrokenFrontMatter(f"expected UTF-8, found: {error.reason}") from None
    raise BrokenFrontMatter(f"expected a second line {_MARK!r} at its end, found none")


def _lines_of(block: list[str], names: Collection[str]) -> Iterator[str]:
    """Yields the lines of the fields of these names. Lines of a field follow its first one, and are indented."""
    wanted = False
    for line in block:
        if (key := _KEY.match(line)) is not None:
            wanted = key[1] in names
        elif not line.startswith(_CONTINUED):
            wanted = wanted and not line.strip()
        if wanted:
            yield line
