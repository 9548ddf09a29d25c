"""What a session and its adapters take of memory, measured in a process of their own.

python -m adapter_export.benchmarking.memory BUNDLE PROVIDER THREADS
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adapter_export.benchmarking.bench_target import BenchTarget, Run
from adapter_export.errors import InputError
from adapter_export.runtime.provider import still_options

_STATUS = Path("/proc/self/status")
_ANONYMOUS = "RssAnon:"
_KILOBYTE = 1024


@dataclass(frozen=True)
class BenchMemory:
    """Bytes of memory that only this process has. Mapped files do not count, as the system may drop them at any time.

    Attributes:
        session: Of an open session after a first run of one row; None if the system does not tell it.
        adapters: How many adapters were loaded after that.
        adapter_bytes: Of all these adapters together; None if the system does not tell it.
        adapter_files: Size of their files.
    """

    session: int | None
    adapters: int
    adapter_bytes: int | None
    adapter_files: int


def memory_of(bundle: Path, provider: str, threads: int | None) -> BenchMemory:
    """Measures the memory of a bundle in a new process.

    Args:
        bundle: Folder of the bundle.
        provider: `cpu` or `cuda`.
        threads: Number of threads of ONNX Runtime's operators; None for its own choice.

    Returns:
        What the process measured.

    Raises:
        InputError: The process failed; the message has the last line it wrote.
    """
    command = [sys.executable, "-m", __name__, str(bundle), provider, str(threads or 0)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise InputError(f"bundle {bundle}: measuring its memory failed: {said[-1] if said else done.returncode}")
    return BenchMemory(**json.loads(done.stdout))


def anonymous_bytes() -> int | None:
    """Returns the bytes of memory that only this process has; None if the system does not tell (all but Linux)."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((_KILOBYTE * int(line.split()[1]) for line in lines if line.startswith(_ANONYMOUS)), None)


def _measured(bundle: Path, provider: str, threads: int | None) -> BenchMemory:
    still_options()  # loads ONNX Runtime, whose own memory is no session's
    empty = anonymous_bytes()
    target = BenchTarget(bundle, provider, threads)
    own = target.manifest.in_graph
    target.call(Run("", (own.name if own else None,)), 1, 1)()
    opened = anonymous_bytes()
    infos = [info for info in target.manifest.adapters if info.file is not None]
    infos = infos[: target.session.slots]
    for info in infos:
        target.session.load(info.name)
    loaded = anonymous_bytes()
    return BenchMemory(
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
