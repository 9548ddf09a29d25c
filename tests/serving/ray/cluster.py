"""A Ray cluster of three nodes on this machine, of which nodes can be killed. Run in Ray's environment."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Read by Ray when it is imported, and by the processes that it starts.
# The times are for machines that do other work as well.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_agent_register_timeout_ms="300000",
    RAY_worker_register_timeout_seconds="300",
    # The head notices in 3 seconds that a node has ended, not in 15. Requests wait for that.
    RAY_health_check_period_ms="1000",
    RAY_health_check_failure_threshold="3",
    OMP_NUM_THREADS="1",
)
os.environ.setdefault("RAY_enable_metrics_collection", "0")
import ray
from ray import serve
from ray.cluster_utils import Cluster

NODES = 3
MEMORY = 80 << 20
_BEGAN = time.monotonic()


@contextlib.contextmanager
def cluster() -> Iterator[tuple[Cluster, list[Any], Path]]:
    """Yields a cluster with one core on each node, its nodes besides the head, and the folder of its logs."""
    # Sockets have short paths.
    folder = tempfile.mkdtemp(prefix="ray-")
    os.environ["RAY_TMPDIR"] = folder
    Path(folder, "ray").mkdir()
    options = {"num_cpus": 1, "object_store_memory": MEMORY}
    made = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **options})
    try:
        workers = [made.add_node(**options) for _ in range(NODES - 1)]
        ray.init(address=made.address, log_to_driver=False)
        yield made, workers, Path(folder, "ray/session_latest/logs")
    finally:
        # A node that a test has stopped or killed answers nothing more.
        with contextlib.suppress(Exception):
            serve.shutdown()
        ray.shutdown()
        made.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def processes(node: Any) -> dict[int, str]:
    """All processes of a node, each with its command, in which Ray says what it is."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(maxsplit=2) for line in found.splitlines()]
    ended = {raylet}
    while more := {int(pid) for pid, parent, _ in lines if int(parent) in ended} - ended:
        ended |= more
    return {int(pid): command for pid, _, command in lines if int(pid) in ended}


def is_kind(command: str, kind: str) -> bool:
    """Whether that is the command of a process of this kind."""
    return re.search(rf"\b{kind}\b", command) is not None


def kill(node: Any) -> dict[str, int]:
    """Kill all processes of a node at once, as if it had lost its power. Returns what they were, counted."""
    ended = processes(node)
    for pid in ended:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return {kind: _count(ended, kind) for kind in ("Replica", "Ingress", "ProxyActor", "raylet")}


def count(node: Any, kind: str) -> int:
    """How many processes of a kind a node has."""
    return _count(processes(node), kind)


def _count(found: Mapping[int, str], kind: str) -> int:
    return sum(is_kind(command, kind) for command in found.values())


def answered(logs: Path) -> list[dict[str, Any]]:
    """What replicas have logged of requests, each with the `file` of its process."""
    found = []
    for file in logs.glob("worker-*.err"):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if '"request_id"' in line:
                found.append({**json.loads(line), "file": file.name})
    return found


def score(bundle: Path, rows: Path, output: Path, address: str) -> subprocess.Popen[bytes]:
    """The command `score`, with an actor on each node. What it prints goes to stderr."""
    command = ["score", "--bundle", str(bundle), "--input", str(rows), "--output", str(output)]
    return subprocess.Popen([sys.executable, "-m", "adapter_export", *command, "--ray", address], stdout=sys.stderr)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def note(what: str) -> None:
    sys.stderr.write(f"{time.monotonic() - _BEGAN:.1f} s: {what}\n")
