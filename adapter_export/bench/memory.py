"""Measures the memory of a session and its adapters, in a separate process.

python -m adapter_export.bench.memory BUNDLE PROVIDER THREADS
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adapter_export.bench.subject import Run, Subject
from adapter_export.errors import InputError
from adapter_export.runtime.provider import still_options

_STATUS = Path("/proc/self/status")
_ANONYMOUS = "RssAnon:"
_KILOBYTE = 1024


@dataclass(frozen=True)
class Memory:
    """Memory of a session and its adapters, in bytes.

    Only memory that no other process shares is counted. Mapped files are not, because the operating system keeps or
    drops their pages at any time. A number is None if the operating system does not provide it.

    Attributes:
        session: Memory of an open session after a run of one row.
        adapters: Number of adapters that were loaded after that.
        adapter_bytes: Memory of all of them together.
        adapter_files: Size of their files.
    """

    session: int | None
    adapters: int
    adapter_bytes: int | None
    adapter_files: int


def memory_of(bundle: Path, provider: str, threads: int | None) -> Memory:
    """Measures the memory of a bundle in a separate process.

    Args:
        bundle: Folder of the bundle.
        provider: `cpu` or `cuda`.
        threads: Number of threads for one operator; None for ONNX Runtime's default.

    Raises:
        InputError: The process failed. The message contains its last line.
    """
    command = [sys.executable, "-m", __name__, str(bundle), provider, str(threads or 0)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise InputError(f"bundle {bundle}: measuring its memory failed: {said[-1] if said else done.returncode}")
    return Memory(**json.loads(done.stdout))


def anonymous_bytes() -> int | None:
    """Returns the bytes of memory of this process that are not shared; None on systems other than Linux."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((_KILOBYTE * int(line.split()[1]) for line in lines if line.startswith(_ANONYMOUS)), None)


def _measured(bundle: Path, provider: str, threads: int | None) -> Memory:
    still_options()  # loads ONNX Runtime, whose own memory does not belong to the session
    empty = anonymous_bytes()
    subject = Subject(bundle, provider, threads)
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
