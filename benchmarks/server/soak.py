"""Half an hour of load on a server of two workers, while workers are killed and adapters are loaded and unloaded."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

from adapter_export.cli.table import print_table
from benchmarks.server.adapters import COUNTS, requests_of, wrong_in
from benchmarks.server.clients import Job, Result, send
from benchmarks.server.running import Running, running
from benchmarks.serving.made import make
from tests.faults.page import write_server

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
CLIENTS, WORKERS, SLOTS, RETRIES = 16, 2, 8, 2
_KILL_SECONDS, _PART_SECONDS = 20.0, 10.0


_WORDS = """\
`python -m benchmarks.server soak` puts load on `adapter-export serve` with a bank of MiniLM, whose adapters are 10 IA3
and 10 bottlenecks. Every {seconds:g} seconds it kills a worker with SIGKILL. All the time it loads and unloads another
adapter over HTTP, and compares every answer with that of a session. A request without an answer, because its worker
was killed, is sent again, at most twice.

| {title} | |
|---|--:|"""


def main(folder: Path) -> None:
    made = make(folder, COUNTS, ("bank",), in_graph=20)
    requests, expected = requests_of(made)
    more = folder / "more"
    more.mkdir()
    shutil.copy(
        made.bundles["bank"] / "adapters" / f"{next(iter(made.adapters))}.onnx_adapter", more / "other.onnx_adapter"
    )
    options = ("--workers", str(WORKERS), "--slots", str(SLOTS), "--adapters", str(more))
    with running("workers", made.bundles["bank"], *options) as server:
        end, counts, memory = time.monotonic() + 60 * MINUTES, Counter[str](), []
        threads = [threading.Thread(target=work, args=(server, end, counts)) for work in (_kill, _change)]
        for thread in threads:
            thread.start()
        whole = Result()
        while time.monotonic() < end:
            part = send(Job(server.port, requests, CLIENTS, seconds=_PART_SECONDS, retries=RETRIES))
            counts["requests"] += len(part.answers)
            counts["wrong"] += wrong_in(part, expected)
            counts["sent again"] += part.retried
            whole.failed += part.failed
            memory.append(_memory(server))
        for thread in threads:
            thread.join()
    sixths = [memory[len(memory) * part // 6] / 1e6 for part in range(6)] + [memory[-1] / 1e6]
    rows = [
        ("requests answered", f"{counts['requests']:,}"),
        ("wrong rows", f"{counts['wrong']}"),
        ("requests without an answer after two more tries", f"{len(whole.failed)}"),
        ("requests sent again", f"{counts['sent again']:,}"),
        ("workers killed", f"{counts['killed']}"),
        ("loads and unloads", f"{counts['changes']:,}"),
        ("loads and unloads that were refused or cut off", f"{counts['refused']}"),
        ("MB of all workers, at each sixth of the time", ", ".join(f"{one:,.0f}" for one in sixths)),
    ]
    title = f"{CLIENTS} clients for {MINUTES:g} minutes, {WORKERS} workers, 20 adapters, {SLOTS} slots"
    print_table(title, ("", "value"), rows)
    write_server(
        [*_WORDS.format(title=title, seconds=_KILL_SECONDS).splitlines(), *(f"| {a} | {b} |" for a, b in rows)]
    )
    for line in whole.failed[:20]:
        print(line)


def workers_of(server: Running) -> list[int]:
    command = ["pgrep", "-P", str(server.process.pid), "-f", "spawn_main"]
    return [int(line) for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()]


def _memory(server: Running) -> int:
    total = 0
    for process in workers_of(server):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
            total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return total


def _kill(server: Running, end: float, counts: Counter[str]) -> None:
    """Kills a worker now and then, if there is another that can go on."""
    while time.monotonic() < end - 2 * _KILL_SECONDS:
        time.sleep(_KILL_SECONDS)
        found = workers_of(server)
        if len(found) == WORKERS:
            os.kill(random.choice(found), signal.SIGKILL)
            counts["killed"] += 1


def _change(server: Running, end: float, counts: Counter[str]) -> None:
    """Loads and unloads an adapter, over and over."""
    while time.monotonic() < end:
        for action in ("load", "unload"):
            url = f"http://127.0.0.1:{server.port}/v2/repository/models/other/{action}"
            try:
                urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=90).close()
                counts["changes"] += 1
            except (urllib.error.URLError, OSError):
                counts["refused"] += 1
            time.sleep(0.2)
