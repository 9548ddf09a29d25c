"""The server under load: many adapters in one session, continuous batching, and half an hour with kills and reloads.

    python -m benchmarks.server [PART ...]

Parts: adapters, tokens, soak (30 minutes); adapters and tokens if none is named. Servers and clients are processes of
one machine. What is compared runs in turns, a server at a time.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def main(chosen: list[str]) -> None:
    from adapter_export.runtime.provider import quiet_log
    from benchmarks.server import adapters, soak, tokens

    parts = {"adapters": adapters.main, "tokens": tokens.main, "soak": soak.main}
    if unknown := [name for name in chosen if name not in parts]:
        sys.exit(f"part {unknown[0]!r}: expected some of {', '.join(parts)}")
    quiet_log()
    for name in chosen or ("adapters", "tokens"):
        with tempfile.TemporaryDirectory() as folder:
            parts[name](Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
