"""The same server with a session for each adapter, as one would build it without a bank.

python -m benchmarks.server.peer serve --bundle SWAPPABLE ...
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from adapter_export.runtime.batching.batcher import DynamicBatcher
from adapter_export.runtime.session import AdapterSession
from adapter_export.serving import server
from adapter_export.serving.engine import Engine, open_engine
from adapter_export.serving.settings import ServerSettings


@dataclass(frozen=True)
class Separate(Engine):
    """Runs each adapter in a session and a batcher of its own."""

    batchers: Mapping[str | None, DynamicBatcher] = field(default_factory=dict)

    async def run(self, inputs: Sequence[Mapping[str, np.ndarray]], adapter: str | None) -> list[dict[str, np.ndarray]]:
        batcher = self.batchers[adapter]
        return await asyncio.gather(*(batcher.run(row, adapter, timeout=0) for row in inputs))


def opened(settings: ServerSettings) -> Engine:
    shared = open_engine(settings)
    batchers: dict[str | None, DynamicBatcher] = {}
    for name in (None, *shared.session.adapters):
        session = AdapterSession(settings.bundle)
        if name is not None:
            session.load(name)
        batchers[name] = DynamicBatcher(session, max_batch=settings.max_batch, max_queue=settings.max_queue)
    return Separate(
        shared.session, shared.batcher, shared.generator, shared.encoder, shared.prompts, shared.max_rows, batchers
    )


if __name__ == "__main__":
    from adapter_export.cli.main import main

    server.open_engine = opened
    main()
