"""A server in a process of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_KILOBYTE = 1024
_START_SECONDS = 300.0


@dataclass(frozen=True)
class Running:
    """A server that takes requests."""

    name: str
    port: int
    process: subprocess.Popen[str]

    @property
    def bytes(self) -> int:
        """Memory that only this process has."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines()
        return _KILOBYTE * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))

    @property
    def cpu_seconds(self) -> float:
        """Time of the processor that it has taken so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


@contextlib.contextmanager
def running(name: str, bundle: Path, *arguments: str, module: str = "adapter_export") -> Iterator[Running]:
    """Runs `serve` of the package, or of another module that takes the same arguments."""
    command = [sys.executable, "-m", module, "serve", "--bundle", str(bundle), "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield Running(name, _port(process), process)
    finally:
        process.terminate()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        if '"url"' in line:
            port = int(json.loads(line)["url"].rpartition(":")[2])
            break
    else:
        raise RuntimeError("".join(seen))
    threading.Thread(target=_drain, args=(process,), daemon=True).start()
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready"):
            return port
        time.sleep(0.1)
    raise RuntimeError("the server did not become ready")


def _drain(process: subprocess.Popen[str]) -> None:
    """Reads the log, so that its pipe does not fill."""
    assert process.stderr is not None
    with contextlib.suppress(ValueError):
        for _ in process.stderr:
            pass


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the value below which this share of the values is."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]
