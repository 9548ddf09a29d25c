"""Names that become parts of file names and graphs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from adapter_export.errors import InputError

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{p}{i}" for p in ("com", "lpt") for i in range(1, 10))})
_MAX_TENSOR_NAME = 1000

# The private ONNX domain of adapter operators and its version.
DOMAIN = "adapter_export"
DOMAIN_VERSION = 1
# The domain of ONNX Runtime's own operators.
CONTRIB = "com.microsoft"
# A task head in names of tensors, in the place where an adapter's operator stands.
HEAD_OP = "head"


def check_adapter_name(name: str) -> str:
    """Returns `name` if it is safe as a file name and as an identifier. Raises InputError otherwise."""
    if not is_file_name(name):
        raise InputError(
            f"adapter name {name!r}: expected 1 to 64 of letters, digits, '.', '_', '-', starting with a letter or "
            "digit, and no name reserved by an operating system"
        )
    return name


def is_file_name(name: str) -> bool:
    """Returns whether `name` is a file name that is valid on every system, and that cannot lead out of its folder."""
    return bool(_FILE_NAME.fullmatch(name)) and name[-1] != "." and name.partition(".")[0].lower() not in _RESERVED


def parse_named_path(text: str, option: str = "--adapter", what: str = "DIR") -> tuple[str, str]:
    """Splits `NAME=DIR`.

    Args:
        text: The text.
        option: The option that it was given with, for error messages.
        what: The name of the second part, for error messages.

    Raises:
        InputError: A part is missing, or the name is not safe.
    """
    name, separator, path = text.partition("=")
    if not separator or not path:
        raise InputError(f"{option} {text!r}: expected NAME={what}")
    return check_adapter_name(name), path


def parse_adapters(texts: Iterable[str], option: str = "--adapter", what: str = "DIR") -> dict[str, str]:
    """Returns paths by name, for an option `NAME=DIR` that was given several times. See `parse_named_path`.

    Raises:
        InputError: A text is invalid, or a name is given twice.
    """
    adapters: dict[str, str] = {}
    for name, path in (parse_named_path(text, option, what) for text in texts):
        if name in adapters:
            raise InputError(f"{option} {name}: given twice")
        adapters[name] = path
    return adapters


def tensor_name(site: str, op_name: str, tensor: str) -> str:
    """Returns the stable name of an adapter tensor in graphs, adapter files and manifests.

    The name is `<site>.<op_name>.<tensor>`.
    """
    return f"{site}.{op_name}.{tensor}"


def is_tensor_name(name: str) -> bool:
    """Returns whether a checkpoint's tensor may have that name: it is printable, and not too long.

    Names are split and compared in many places, some of which take time in proportion to the square of the length.
    """
    return name.isprintable() and len(name) <= _MAX_TENSOR_NAME
