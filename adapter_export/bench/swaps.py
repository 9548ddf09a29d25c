"""Measures how long it takes to load an adapter into an open session, compared with opening a session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adapter_export.bench.settings import Settings
from adapter_export.bench.subject import Run, Subject
from adapter_export.bench.summary import Percentiles, percentiles
from adapter_export.bench.timing import seconds_of

_MILLISECONDS = 1e3
_LOADS, _SESSIONS = 50, 3


@dataclass(frozen=True)
class Swap:
    """Wall times of swapping one adapter, in milliseconds.

    Attributes:
        bundle: Name of the bundle in the report.
        adapter: Name of the adapter.
        method: Its method.
        bytes: Size of its file.
        load: Loading it from its file, which was verified before.
        first_use: A run of one row that loads it.
        steady: The same run again, directly afterwards.
        session: Opening a session, including the check of the bundle's files.
        share: The p50 of `load`, divided by that of `session`.
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


def swaps(name: str, subject: Subject, settings: Settings) -> Iterator[Swap]:
    """Measures the first adapter of each method; nothing if the adapter is in the graph.

    Args:
        name: Name of the bundle in the report.
        subject: The bundle.
        settings: What to measure.
    """
    if subject.manifest.mode.in_graph:
        return
    created = percentiles([_milliseconds(lambda: subject.opened().close()) for _ in range(_SESSIONS)])
    for run in subject.runs:
        if len(run.adapters) == 1 and (adapter := run.adapters[0]) is not None:
            yield _swap(name, subject, run, adapter, min(settings.lengths), settings.repeats or _LOADS, created)


def _swap(name: str, subject: Subject, run: Run, adapter: str, length: int, repeats: int, created: Percentiles) -> Swap:
    session, call = subject.session, subject.call(run, 1, length)
    loads, firsts, steadies = [], [], []
    for _ in range(repeats):
        loads.append(_milliseconds(lambda: session.load(adapter)))
        session.unload(adapter)
        firsts.append(_milliseconds(call))
        steadies.append(_milliseconds(call))
    load = percentiles(loads)
    info = subject.manifest.adapter(adapter)
    size = 0 if info.file is None else (subject.bundle / info.file).stat().st_size
    return Swap(
        name, adapter, info.method, size, load, percentiles(firsts), percentiles(steadies), created,
        load.p50 / created.p50,
    )  # fmt: skip


def _milliseconds(call: object) -> float:
    assert callable(call)
    return _MILLISECONDS * seconds_of(call).wall
