"""The settings of a server, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from adapter_export.errors import InputError

_MOST = {
    "workers": 256,
    "max_batch": 4096,
    "max_queue": 1 << 20,
    "max_body": 1 << 40,
    "max_tokens": 1 << 30,
    "cache_bytes": 1 << 50,
}


@dataclass(frozen=True)
class ServerSettings:
    """How a bundle is served.

    Attributes:
        bundle: Folder of the bundle.
        host: Address to listen on.
        port: Port to listen on; 0 for a free one.
        provider: `cpu` or `cuda`.
        workers: Number of processes, each with a session of its own.
        max_batch: Largest number of rows in a batch.
        max_queue: Largest number of rows that wait, in each worker. Requests beyond it are refused with status 429.
        max_body: Largest number of bytes of a request.
        max_tokens: Largest number of new tokens of a row; None for as many as fit in the model.
        cache_bytes: Bytes for the caches of rows that generate, in each worker.
        seconds: Largest time of a request in seconds.
        slots: In mode bank, how many adapters are in memory at once; None for the number in the manifest.
        adapters: Folder of `.onnx_adapter` files that may be loaded over HTTP; None if adapters cannot be loaded.
        token: The bearer token of every request except health checks; None if requests need none.
        expect_sha256: Expected digest of the bundle's manifest; None for any.
        drain_seconds: After SIGTERM, how long the server still takes new requests while it says that it is not ready.
    """

    bundle: Path
    host: str = "127.0.0.1"
    port: int = 8080
    provider: str = "cpu"
    workers: int = 1
    max_batch: int = 16
    max_queue: int = 256
    max_body: int = 16 << 20
    max_tokens: int | None = None
    cache_bytes: int = 1 << 30
    seconds: float = 300.0
    slots: int | None = None
    adapters: Path | None = None
    token: str | None = field(default=None, repr=False)
    expect_sha256: str | None = None
    drain_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range."""
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise InputError(f"{name}: expected a whole number from 1 to {most}, found {value}")
        if not 0 <= self.port < 1 << 16:
            raise InputError(f"port: expected a number from 0 to 65535, found {self.port}")
        if not 0 < self.seconds <= 1e6:
            raise InputError(f"seconds: expected a number above 0, found {self.seconds}")
        if not 0 <= self.drain_seconds <= 1e6:
            raise InputError(f"drain_seconds: expected a number from 0, found {self.drain_seconds}")
        if self.token is not None and (not self.token or not self.token.isascii() or not self.token.isprintable()):
            raise InputError("token: expected at least one printable ASCII character, and no others")
