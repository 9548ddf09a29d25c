"""Exchanges two folders in one step, where the system can do that."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

# Name of the function in the C library, where there is one.
_NAMES = {"linux": "renameat2", "darwin": "renamex_np"}
# Linux, <linux/fs.h> and <fcntl.h>.
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
# macOS, <sys/stdio.h>.
_RENAME_SWAP = 2
# Errors of systems and file systems that cannot exchange folders.
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})


def exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders of one file system in one step. Returns False if the system cannot do that. Raises
    OSError.
    """
    call = _system_call()
    if call is None:
        return False
    sys.audit("adapter_export.exchange", str(one), str(other))
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@cache
def _system_call() -> Any | None:
    """Returns a function of two paths that returns 0 on success; None if the system has none."""
    name = _NAMES.get(sys.platform)
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None) if name else None
    if function is None:
        return None
    if name == "renamex_np":
        function.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint]
        return lambda one, other: function(one, other, _RENAME_SWAP)
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return lambda one, other: function(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE)
