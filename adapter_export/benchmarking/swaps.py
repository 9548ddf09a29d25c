"""What it takes to bring an adapter into a running session, against creating one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adapter_export.benchmarking.bench_target import BenchTarget, Run
from adapter_export.benchmarking.settings import BenchSettings
from adapter_export.benchmarking.summary import Percentiles, percentiles
from adapter_export.benchmarking.timing import seconds_of

_MILLISECONDS = 1e3
_LOADS, _SESSIONS = 50, 3


@dataclass(frozen=True)
class BenchSwap:
    """How long it takes to bring an adapter into a session. Times are milliseconds on the clock.

    Attributes:
        bundle: `bundle` or `against`.
        adapter: Name of the adapter.
        method: Its method.
        bytes: Size of its file.
        load: Of loading it from its file, which was verified before.
        first_use: Of a run of one row that has to load it.
        steady: Of the same run directly afterwards.
        session: Of creating a session, with the bundle's files verified.
        share: Median of `load` divided by that of `session`.
    """

    bundle: str
    adapter: str
    method: str
    bytes: int
    load: Percentiles
    first_use: Percentiles
    steady: Percentiles
    session: Percentiles
    share: float


def swaps(name: str, target: BenchTarget, settings: BenchSettings) -> Iterator[BenchSwap]:
    """Measures the first adapter of each method.

    Args:
        name: What the report calls the bundle.
        target: The bundle.
        settings: What is measured.

    Yields:
        One result for each adapter; none for a bundle whose adapter is in the graph.
    """
    if target.manifest.mode.in_graph:
        return
    created = percentiles([_milliseconds(lambda: target.opened().close()) for _ in range(_SESSIONS)])
    for run in target.runs:
        if len(run.adapters) == 1 and (adapter := run.adapters[0]) is not None:
            yield _swap(name, target, run, adapter, min(settings.lengths), settings.repeats or _LOADS, created)


def _swap(
    name: str, target: BenchTarget, run: Run, adapter: str, length: int, repeats: int, created: Percentiles
) -> BenchSwap:
    session, call = target.session, target.call(run, 1, length)
    loads, firsts, steadies = [], [], []
    for _ in range(repeats):
        loads.append(_milliseconds(lambda: session.load(adapter)))
        session.unload(adapter)
        firsts.append(_milliseconds(call))
        steadies.append(_milliseconds(call))
    load = percentiles(loads)
    info = target.manifest.adapter(adapter)
    size = 0 if info.file is None else (target.bundle / info.file).stat().st_size
    return BenchSwap(
        name, adapter, info.method, size, load, percentiles(firsts), percentiles(steadies), created,
        load.p50 / created.p50,
    )  # fmt: skip


def _milliseconds(call: object) -> float:
    assert callable(call)
    return _MILLISECONDS * seconds_of(call).wall
