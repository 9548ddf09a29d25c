"""Serves a bundle on a Ray cluster, updates it under load, kills a node under load, and scores on what is left.

No replica has used an adapter at first, so the first requests show which adapter goes where.

    python -m tests.serving.ray.node_loss SMALLER BUNDLE ROWS OUTPUT

BUNDLE has classifiers, SMALLER is the same without the adapter `pfeiffer_five`, ROWS is a data file. Prints one JSON
object with what clients saw.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any

# First, as it sets what Ray reads when it is imported.
from tests.serving.ray.cluster import NODES, answered, cluster, count, free_port, kill, note, score

# isort: split
from ray import serve

from adapter_export.serving.ray import build
from tests.serving.ray.load import ADAPTERS, Load, infer, send

# Requests for an adapter, one after the other.
SAME = 12
# Small batches, so that large requests take long; a queue for all of them.
ARGUMENTS = {"replicas": NODES, "ingress_replicas": NODES, "cpus": 1, "max_batch": 4, "max_queue": 8192, "seconds": 60}
# So many that each replica has some, and some of those come through the nodes that stay.
LARGE_REQUESTS = 30
# After so many seconds, all of them have begun.
BEGUN = 0.5


def routed(port: int, logs: Path) -> dict[str, list[str]]:
    """The processes that have answered requests for each adapter, one after the other."""
    sent: dict[str, list[str]] = {}
    for adapter in ADAPTERS[:3]:
        infer(port, adapter, ["bad"])
        time.sleep(1)  # Ray tells all ingresses which replica has the adapter
        sent[adapter] = [uuid.uuid4().hex for _ in range(SAME)]
        for identity in sent[adapter]:
            infer(port, adapter, ["bad"], identity)
    files = {line["request_id"]: line["file"] for line in answered(logs)}
    return {adapter: [files[identity] for identity in identities] for adapter, identities in sent.items()}


def main(smaller: Path, bundle: Path, rows: Path, output: Path) -> None:
    port = free_port()
    found: dict[str, Any] = {}
    with cluster() as (nodes, workers, logs):
        note("the cluster runs")
        serve.start(proxy_location="EveryNode", http_options={"host": "127.0.0.1", "port": port})
        serve.run(build({**ARGUMENTS, "bundle": smaller}))
        note("the application runs")
        found["unknown"] = infer(port, "nobody", ["bad"])[::2]
        found["metrics"] = send(port, "GET", "/metrics")[::2]
        found["before"] = infer(port, ADAPTERS[-1], ["bad"])[0]
        found["routed"] = routed(port, logs)
        note("routed")
        with Load(port, ADAPTERS[:-1]) as load:
            load.wait(30)
            serve.run(build({**ARGUMENTS, "bundle": bundle}))
            load.wait(30)
        found["during the update"] = load.seen
        found["models"] = send(port, "POST", "/v2/repository/index")[2]
        note(f"updated; {len(load.seen)} requests")
        with Load(port, ADAPTERS) as load:
            load.wait(60)
            # Ray may place several ingresses on one node. Those of the others send requests again.
            victim = min((node for node in workers if count(node, "Replica")), key=lambda node: count(node, "Ingress"))
            with load.large_requests(LARGE_REQUESTS):
                time.sleep(BEGUN)
                found["killed"] = kill(victim)
            note("all large requests have their answers")
            load.wait(120)
        found["under load"] = load.seen
        again = {one["id"] for one in load.seen if one["by ingress"]}
        found["logged"] = [line for line in answered(logs) if line["request_id"] in again]
        note(f"a node was killed; {len(load.seen)} requests")
        nodes.remove_node(victim, allow_graceful=False)
        serve.shutdown()
        with score(bundle, rows, output, nodes.address) as scoring:
            found["scored"] = scoring.wait()
        note("scored")
    print(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
