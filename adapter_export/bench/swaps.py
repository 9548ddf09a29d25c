"""What it takes to bring an adapter into a running session, against creating one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adapter_export.bench.settings import BenchSettings
from adapter_export.bench.subject import MeasuredBundle, Run
from adapter_export.bench.summary import Percentiles, percentiles
from adapter_export.bench.timing import seconds_of

_MILLISECONDS = 1e3
_LOADS, _SESSIONS = 50, 3


@dataclass(frozen=True)
class Swap:
    """Wall milliseconds of an adapter. load: from its file, verified before. first_use: a run of one row that has to
    load it; steady: the same run right afterwards. session: creating a session, the bundle's files verified.
    share: p50 of the load as a part of that.
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


def swaps(name: str, subject: MeasuredBundle, settings: BenchSettings) -> Iterator[Swap]:
    """Of the first adapter of each method; none where the adapter is in the graph. name: what the report calls it."""
    if subject.manifest.mode.in_graph:
        return
    created = percentiles([_milliseconds(lambda: subject.opened().close()) for _ in range(_SESSIONS)])
    for run in subject.runs:
        if len(run.adapters) == 1 and (adapter := run.adapters[0]) is not None:
            yield _swap(name, subject, run, adapter, min(settings.lengths), settings.repeats or _LOADS, created)


def _swap(
    name: str, subject: MeasuredBundle, run: Run, adapter: str, length: int, repeats: int, created: Percentiles
) -> Swap:
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
