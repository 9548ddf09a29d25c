"""Many adapters in one session, on MiniLM: what mixing them in a batch costs and gains, and what memory they take.

    python -m benchmarks.serving [PART ...]

Parts: batches, lengths, peers, ranks, many, soak; all of them if none is named. Two threads, which wait without
spinning; every table is one run, its rounds in turns.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

# PyTorch's threads spin for a while after each operator, which would slow whatever runs after them; read on import.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")


def main(chosen: list[str]) -> None:
    from adapter_export.runtime.provider import quiet_log
    from benchmarks.serving import batches, lengths, many, peers, ranks, soak

    parts = {module.__name__.rpartition(".")[2]: module.main for module in (batches, lengths, peers, ranks, many, soak)}
    if unknown := [name for name in chosen if name not in parts]:
        sys.exit(f"part {unknown[0]!r}: expected some of {', '.join(parts)}")
    quiet_log()
    for name in chosen or parts:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
