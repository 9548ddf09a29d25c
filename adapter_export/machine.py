"""What a measurement ran on: the date, the processor, the system, and the versions of the libraries."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

# Libraries whose versions can change the numbers. Only those that were imported are stated.
_LIBRARIES = ("numpy", "onnxruntime", "peft", "tokenizers", "torch", "transformers")
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """What a measurement ran on.

    Attributes:
        date: When it ended, in UTC: `2026-11-28T09:30:00+00:00`.
        processor: Name of the processor, as the system calls it.
        cores: Number of logical cores; None if the system does not tell.
        system: The operating system, its release, and the architecture.
        versions: Versions of this package, of Python, and of the libraries that were imported, by name.
    """

    date: str
    processor: str
    cores: int | None
    system: str
    versions: Mapping[str, str]


def this_machine() -> Machine:
    """Returns what this process runs on, with the libraries that it has imported by now."""
    return Machine(
        now(),
        _processor(),
        os.cpu_count(),
        f"{platform.system()} {platform.release()}, {platform.machine()}",
        loaded_versions(),
    )


def now() -> str:
    """Returns the date and time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def loaded_versions() -> dict[str, str]:
    """Returns the versions of this package, of Python, and of those libraries that are imported."""
    loaded = {name: str(sys.modules[name].__version__) for name in _LIBRARIES if name in sys.modules}
    return {"adapter-export": version("adapter-export"), "python": platform.python_version(), **loaded}


def _processor() -> str:
    """Returns the name of the processor. Python itself gives it on Windows and macOS only."""
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
