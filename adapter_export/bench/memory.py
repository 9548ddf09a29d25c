"""What a session and its adapters take of memory, measured in a process of their own.

python -m adapter_export.bench.memory BUNDLE PROVIDER THREADS
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adapter_export.bench.subject import MeasuredBundle, Run
from adapter_export.errors import InputError
from adapter_export.runtime.provider import still_options

_STATUS = Path("/proc/self/status")
_ANONYMOUS = "RssAnon:"
_KILOBYTE = 1024


@dataclass(frozen=True)
class Memory:
    """Bytes of memory that only this process has (files that are mapped come and go as the system likes). session: an
    open session and a first run of one row. adapters: how many were loaded after that; adapter_bytes: for all of them
    together; adapter_files: the size of their files. None where the system does not tell."""

    session: int | None
    adapters: int
    adapter_bytes: int | None
    adapter_files: int


def memory_of(bundle: Path, provider: str, threads: int | None) -> Memory:
    """Raises InputError when the process that measures fails, with what it said."""
    command = [sys.executable, "-m", __name__, str(bundle), provider, str(threads or 0)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise InputError(f"bundle {bundle}: measuring its memory failed: {said[-1] if said else done.returncode}")
    return Memory(**json.loads(done.stdout))


def anonymous_bytes() -> int | None:
    """Of this process, now; None where there is no such number (all but Linux)."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((_KILOBYTE * int(line.split()[1]) for line in lines if line.startswith(_ANONYMOUS)), None)


def _measured(bundle: Path, provider: str, threads: int | None) -> Memory:
    still_options()  # loads ONNX Runtime, whose own memory is no session's
    empty = anonymous_bytes()
    subject = MeasuredBundle(bundle, provider, threads)
    own = subject.manifest.in_graph
    subject.call(Run("", (own.name if own else None,)), 1, 1)()
    opened = anonymous_bytes()
    infos = [info for info in subject.manifest.adapters if info.file is not None]
    infos = infos[: subject.session.slots]
    for info in infos:
        subject.session.load(info.name)
    loaded = anonymous_bytes()
    return Memory(
        None if empty is None or opened is None else opened - empty,
        len(infos),
        None if opened is None or loaded is None else loaded - opened,
        sum((bundle / str(info.file)).stat().st_size for info in infos),
    )


def main(arguments: Sequence[str]) -> None:
    bundle, provider, threads = arguments
    print(json.dumps(asdict(_measured(Path(bundle), provider, int(threads) or None))))  # noqa: T201 - for `memory_of`


if __name__ == "__main__":
    main(sys.argv[1:])
