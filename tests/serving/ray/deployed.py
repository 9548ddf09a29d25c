"""Deploys two applications on a Ray cluster from a config file, and shows how they grow, stream and refuse.

    python -m tests.serving.ray.deployed CLASSIFIERS WRITERS ROWS OUTPUT

CLASSIFIERS and WRITERS are bundles, ROWS is a data file. Prints one JSON object with what clients saw.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Before Ray is imported. Ingresses report their load each second, not every 10 seconds.
os.environ.update(RAY_enable_metrics_collection="1", RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S="1")
from tests.serving.ray.cluster import NODES, answered, cluster, count, free_port, is_kind, kill, note, processes, score

# isort: split
import ray
import yaml
from ray import serve

from tests.serving.ray.load import ADAPTERS, Load, send, until
from tests.serving.ray.wanted import LONG, MOST, PROMPT, SHORT

# Requests that each replica of the classifiers should have at once: far fewer than its clients have.
AT_ONCE = 0.2
# Requests at once for the language model, of which 4 + 2 * 4 have a place.
AT_ONCE_REFUSED = 24


def config(classifiers: Path, writers: Path, port: int) -> dict[str, Any]:
    """Ray's config file."""
    build = "adapter_export.serving.ray:build"
    growing_args = {"max_replicas": MOST, "ingress_replicas": NODES, "max_batch": 4, "max_queue": 4096}
    # One row at a time: four requests are in the replica, and a few wait in each ingress.
    fixed_args = {"max_batch": 1, "max_queue": 4}
    growing = {"min_replicas": 1, "max_replicas": MOST, "target_ongoing_requests": AT_ONCE}
    quickly = {"upscale_delay_s": 2, "look_back_period_s": 12}
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": "classifiers",
                "route_prefix": "/",
                "import_path": build,
                "args": {"bundle": str(classifiers), "cpus": 0.5, **growing_args},
                "deployments": [
                    {"name": "Ingress", "max_replicas_per_node": 1},
                    {"name": "Replica", "autoscaling_config": {**growing, **quickly}},
                ],
            },
            {
                "name": "writers",
                "route_prefix": "/writers",
                "import_path": build,
                "args": {"bundle": str(writers), "cpus": 0.5, **fixed_args},
            },
        ],
    }


def ready(port: int, application: str = "") -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return send(port, "GET", f"{application}/v2/health/ready")[0] == 200
    return False


def replicas() -> int:
    """How many replicas of the classifiers run."""
    deployment = serve.status().applications["classifiers"].deployments["Replica"]
    return int(deployment.replica_states.get("RUNNING", 0))


def grown(port: int) -> dict[str, Any]:
    """What clients see while the number of replicas follows their load."""
    found: dict[str, Any] = {"before": replicas()}
    with Load(port, ADAPTERS) as load:
        until(lambda: replicas() == MOST)
        load.wait(30)
    return {**found, "after": replicas(), "seen": load.seen}


def refused(port: int) -> list[tuple[int, str | None]]:
    """Status and `retry-after` of more requests at once than may wait."""

    def ask(_: int) -> tuple[int, str | None]:
        status, headers, _body = send(port, "POST", "/writers/v1/completions", {**PROMPT, "max_tokens": LONG // 30})
        return status, headers.get("retry-after")

    with ThreadPoolExecutor(AT_ONCE_REFUSED) as pool:
        return list(pool.map(ask, range(AT_ONCE_REFUSED)))


class Stream:
    """A stream of events, read line by line."""

    def __init__(self, port: int, tokens: int) -> None:
        self.identity = uuid.uuid4().hex
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        content = json.dumps({**PROMPT, "max_tokens": tokens, "stream": True})
        self.connection.request("POST", "/writers/v1/completions", content, {"x-request-id": self.identity})
        self.response = self.connection.getresponse()

    def events(self, most: int | None = None) -> list[str]:
        """The next events, so many or all."""
        found: list[str] = []
        while (most is None or len(found) < most) and (line := self.response.readline()):
            if line.strip():
                found.append(line.decode().strip().removeprefix("data: "))
        return found


def streamed(port: int, logs: Path) -> dict[str, Any]:
    """A stream, one whose client leaves, and one whose replica ends."""
    found: dict[str, Any] = {}
    found["whole"] = send(port, "POST", "/writers/v1/completions", {**PROMPT, "max_tokens": SHORT})[2]
    stream = Stream(port, SHORT)
    found["status"], found["type"] = stream.response.status, stream.response.getheader("content-type")
    found["events"] = stream.events()
    left = Stream(port, LONG)
    left.events(3)
    left.connection.close()
    left.response.close()
    until(lambda: any(line["request_id"] == left.identity for line in answered(logs)))
    found["left"] = [line for line in answered(logs) if line["request_id"] == left.identity]
    broken = Stream(port, LONG)
    begun = broken.events(3)
    end("writers", 1)
    try:
        found["broken"] = [*begun, *broken.events()]
    except (OSError, http.client.HTTPException) as error:
        found["broken"] = [*begun, repr(error)]
    until(lambda: ready(port, "/writers"))
    found["broken attempts"] = [line for line in answered(logs) if line["request_id"] == broken.identity]
    found["after"] = send(port, "POST", "/writers/v1/completions", {**PROMPT, "max_tokens": SHORT})[2]
    return found


def end(application: str, number: int) -> None:
    """Kill so many replicas of an application."""
    found = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    own = [int(line.split()[0]) for line in found.splitlines() if f"ServeReplica:{application}:Replica" in line]
    for pid in own[:number]:
        os.kill(pid, signal.SIGKILL)


def counted(port: int) -> dict[str, Any]:
    """What clients see when a replica ends, and what Ray's metrics say of it."""
    with Load(port, ADAPTERS) as load, load.large_requests(12):
        time.sleep(0.5)
        end("classifiers", 1)
    wanted = sum(one["by ingress"] for one in load.seen)
    with contextlib.suppress(TimeoutError):
        until(lambda: metric("adapter_export_retries") == wanted)
    return {"seen": load.seen, "metric": metric("adapter_export_retries")}


def metric(name: str) -> float:
    """The sum of a counter over all nodes."""
    total = 0.0
    for port in {node["MetricsExportPort"] for node in ray.nodes() if node["Alive"]}:
        with contextlib.suppress(OSError):
            text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
            total += sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"ray_{name}"))
    return total


def main(classifiers: Path, writers: Path, rows: Path, output: Path) -> None:
    port = free_port()
    found: dict[str, Any] = {}
    with cluster() as (nodes, (victim, _), logs):
        note("the cluster runs")
        file = output.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(config(classifiers, writers, port)), encoding="utf-8")
        deploy = ["serve", "run", "--non-blocking", "--address", nodes.address, str(file)]
        subprocess.run(deploy, check=True, stdout=sys.stderr)
        until(lambda: ready(port) and ready(port, "/writers"))
        note("the applications run")
        # The fixed application has two more, wherever there is a place.
        found["ingresses"] = [count(node, "ServeReplica:classifiers:Ingress") for node in nodes.list_all_nodes()]
        found["grown"] = grown(port)
        note(f"grown; {len(found['grown']['seen'])} requests")
        found["streamed"] = streamed(port, logs)
        note("streamed")
        found["refused"] = refused(port)
        note("refused")
        found["counted"] = counted(port)
        note("counted")
        serve.shutdown()
        with score(classifiers, rows, output, nodes.address) as scoring:
            until(lambda: any(is_kind(command, "MapWorker") for command in processes(victim).values()))
            time.sleep(3)
            found["killed"] = [command for command in processes(victim).values() if is_kind(command, "MapWorker")]
            kill(victim)
            found["running"] = scoring.poll() is None
            found["scored"] = scoring.wait()
        nodes.remove_node(victim, allow_graceful=False)
        note("scored")
    print(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
