"""Metrics for Prometheus: what this process has done, or all workers of the server."""

from __future__ import annotations

import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from adapter_export.runtime.adapters.usage import AdapterStatistics
from adapter_export.serving.engine import Engine
from adapter_export.serving.names import BASE

# The environment variable that names the folder in which workers share their metrics. The library prometheus_client
# reads it when it is imported.
SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Counters and gauges of one worker. All times are in seconds."""

    def __init__(self) -> None:
        """Makes them, each 0."""
        # The times at which each counter was made, which would double the text.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "adapter_export_requests", "Requests", ["endpoint", "model", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "adapter_export_request_seconds",
            "Time from a request to the end of its answer",
            ["endpoint", "model"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._by_adapter = {
            name: Counter(f"adapter_export_adapter_{name}", what, ["model"], registry=self._registry)
            for name, what in (
                ("batches", "Batches with at least one row of the adapter"),
                ("rows", "Rows that ran with the adapter; rows divided by batches is its mean batch size"),
                ("loads", "How often the adapter was brought into memory"),
                ("evictions", "How often the adapter was removed from memory to make room for another"),
            )
        }
        self._of_engine = {
            name: Counter(f"adapter_export_{name}", what, registry=self._registry)
            for name, what in (
                ("batches", "Runs of the graph"),
                ("batch_rows", "Rows in these runs"),
                ("generated_tokens", "New tokens"),
                ("refused_rows", "Rows that were refused because the queue was full"),
            )
        }
        self._gauges = {
            name: Gauge(f"adapter_export_{name}", what, registry=self._registry, multiprocess_mode="livesum")
            for name, what in (
                ("running_requests", "Requests that are being answered"),
                ("queued_rows", "Rows that wait for a run"),
                ("generating_rows", "Rows that generate"),
                ("cached_tokens", "Tokens that the caches of these rows may grow to"),
                ("adapter_bytes", "Bytes of the adapters in memory"),
                ("ready", "Workers that take requests"),
            )
        }
        self._seen: dict[tuple[str, str], float] = {}

    def begun(self) -> None:
        """Counts a request that begins."""
        self._gauges["running_requests"].inc()

    def ended(self, endpoint: str, model: str, status: int, seconds: float) -> None:
        """Counts a request that has ended.

        Args:
            endpoint: The path of the endpoint, with the names of its parameters.
            model: The model that was chosen; empty if there was none.
            status: The HTTP status.
            seconds: How long it took.
        """
        self._gauges["running_requests"].dec()
        self._requests.labels(endpoint, model, str(status)).inc()
        self._seconds.labels(endpoint, model).observe(seconds)

    def update(self, engine: Engine, *, ready: bool) -> None:
        """Takes over what the engine has counted since the last call."""
        for name, found in engine.session.statistics().items():
            self._adapter(name or BASE, found)
        if engine.batcher is not None:
            batches = engine.batcher.statistics()
            self._count("batches", batches.batches)
            self._count("batch_rows", batches.requests)
            self._gauges["queued_rows"].set(batches.queued)
        if engine.generator is not None:
            rows = engine.generator.statistics()
            self._count("batches", rows.steps)
            self._count("batch_rows", rows.tokens)
            self._count("generated_tokens", rows.tokens)
            self._count("refused_rows", rows.refused)
            self._gauges["queued_rows"].set(rows.waiting)
            self._gauges["generating_rows"].set(rows.running)
            self._gauges["cached_tokens"].set(rows.cached_tokens)
        self._gauges["adapter_bytes"].set(engine.session.adapter_bytes)
        self._gauges["ready"].set(ready)

    def text(self) -> bytes:
        """Returns the metrics in Prometheus' text format, summed over all workers if there are several."""
        if SHARED_FOLDER not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _adapter(self, model: str, found: AdapterStatistics) -> None:
        for name, counter in self._by_adapter.items():
            counter.labels(model).inc(self._new((name, model), getattr(found, name)))

    def _count(self, name: str, total: float) -> None:
        self._of_engine[name].inc(self._new((name, ""), total))

    def _new(self, key: tuple[str, str], total: float) -> float:
        """Returns how much a count has grown since it was last seen."""
        grown = max(0.0, total - self._seen.get(key, 0.0))
        self._seen[key] = total
        return grown
