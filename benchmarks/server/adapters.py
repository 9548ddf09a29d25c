"""32 clients and 20 adapters on MiniLM: one bank behind the server, or a session for each adapter."""

from __future__ import annotations

import json
import shutil
import statistics
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from adapter_export.cli.table import print_table
from benchmarks.server.clients import Job, Result, send
from benchmarks.server.running import Running, percentile, running
from benchmarks.serving.made import BOTTLENECK, IA3, Made, make, texts

CLIENTS, COUNTS, LENGTH = 32, {IA3: 10, BOTTLENECK: 10}, 16
ROUNDS, SECONDS = 5, 6.0
_REQUESTS = 400
# float32 in batches of other sizes; adapters differ by a thousand times more.
_TOLERANCE = 1e-4


def main(folder: Path) -> None:
    made = make(folder, COUNTS, ("bank", "swappable"), in_graph=20)
    requests, expected = requests_of(made)
    more = folder / "more"
    more.mkdir()
    first = next(iter(made.adapters))
    shutil.copy(made.bundles["bank"] / "adapters" / f"{first}.onnx_adapter", more / "other.onnx_adapter")
    with (
        running("one bank", made.bundles["bank"], "--adapters", str(more)) as bank,
        running("a session for each adapter", made.bundles["swappable"], module="benchmarks.server.peer") as separate,
    ):
        control = Running("one bank, again (control)", bank.port, bank.process)
        servers = (bank, control, separate)
        for server in servers:
            send(Job(server.port, requests, CLIENTS, seconds=2))
        found: dict[str, list[Result]] = {server.name: [] for server in servers}
        cpu: dict[str, list[float]] = {server.name: [] for server in servers}
        for number in range(ROUNDS):
            for place in range(len(servers)):
                server = servers[(number + place) % len(servers)]
                before = server.cpu_seconds
                result = send(Job(server.port, requests, CLIENTS, seconds=SECONDS))
                found[server.name].append(result)
                cpu[server.name].append((server.cpu_seconds - before) / len(result.answers))
        rates = {name: [len(one.answers) / one.seconds for one in results] for name, results in found.items()}
        base = rates[separate.name]
        rows = []
        for server in servers:
            seconds = [second for one in found[server.name] for _, second, _ in one.answers]
            ratios = [own / other for own, other in zip(rates[server.name], base, strict=True)]
            costs = [own / other for own, other in zip(cpu[separate.name], cpu[server.name], strict=True)]
            rows.append(
                (
                    server.name,
                    f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                    f"{statistics.median(costs):.2f}",
                    f"{percentile(seconds, 0.5) / percentile(seconds, 0.99):.2f}",
                    f"{server.bytes / 1e6:,.0f}",
                    str(sum(len(one.failed) for one in found[server.name])),
                    str(sum(wrong_in(one, expected) for one in found[server.name])),
                )
            )
        print_table(
            f"{CLIENTS} clients, {len(made.adapters)} adapters, {LENGTH} tokens ({ROUNDS} rounds of {SECONDS:.0f} s)",
            ("", "throughput", "CPU per request: saved", "p50 : p99", "MB", "failed", "wrong"),
            rows,
        )
        _while_loading(bank, requests, expected)


def _while_loading(bank: Running, requests: list[tuple[str, str]], expected: list[np.ndarray]) -> None:
    """The same load while an adapter is loaded and unloaded, over and over."""
    end, changes, refused = time.monotonic() + 15, 0, 0

    def change() -> None:
        nonlocal changes, refused
        while time.monotonic() < end:
            for action in ("load", "unload"):
                url = f"http://127.0.0.1:{bank.port}/v2/repository/models/other/{action}"
                try:
                    urllib.request.urlopen(urllib.request.Request(url, method="POST")).close()
                    changes += 1
                except urllib.error.HTTPError:
                    refused += 1

    thread = threading.Thread(target=change)
    thread.start()
    result = send(Job(bank.port, requests, CLIENTS, seconds=15))
    thread.join()
    seconds = [second for _, second, _ in result.answers]
    print_table(
        "The same while an adapter is loaded and unloaded",
        ("", "value"),
        [
            ("requests", f"{len(result.answers):,}"),
            ("failed", str(len(result.failed))),
            ("wrong", str(wrong_in(result, expected))),
            ("loads and unloads", f"{changes:,}"),
            ("loads and unloads refused", str(refused)),
            ("p99 : p50", f"{percentile(seconds, 0.99) / percentile(seconds, 0.5):.2f}"),
        ],
    )


def requests_of(made: Made) -> tuple[list[tuple[str, str]], list[np.ndarray]]:
    """Requests of one row each for adapters at random, and the logits that they must give."""
    rng = np.random.default_rng(5)
    names = list(made.adapters)
    inputs = texts(_REQUESTS, LENGTH)
    requests, expected = [], []
    with made.session("bank") as session:
        for row in range(_REQUESTS):
            name = names[rng.integers(len(names))]
            one = {key: value[row : row + 1] for key, value in inputs.items()}
            described = [
                {"name": key, "shape": list(value.shape), "datatype": "INT64", "data": value.tolist()}
                for key, value in one.items()
            ]
            requests.append((f"/v2/models/{name}/infer", json.dumps({"inputs": described})))
            expected.append(session.run(one, name)["logits"])
    return requests, expected


def wrong_in(result: Result, expected: list[np.ndarray]) -> int:
    wrong = 0
    for number, _, text in result.answers:
        right = expected[number]
        logits = np.array(json.loads(text)["outputs"][0]["data"]).reshape(right.shape)
        wrong += bool(np.abs(logits - right).max() > _TOLERANCE * np.abs(right).max())
    return wrong
