"""Latency of one bundle or two, side by side: every batch and length, every way to run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from adapter_export.benchmarking.bench_target import MIXED, TOKEN, BenchTarget, Run
from adapter_export.benchmarking.settings import BenchSettings
from adapter_export.benchmarking.summary import Percentiles, Ratio, percentiles, ratio
from adapter_export.benchmarking.timing import WARM_UP, Seconds, interleaved, rounds_within

_MILLISECONDS = 1e3
# Of generating, where neither `repeats` nor the model's positions say less.
_MOST_TOKENS = 256


@dataclass(frozen=True)
class BenchShape:
    """What was measured in one go.

    Attributes:
        stage: `run`, `prefill` or `token`, see `bench_target`.
        batch: Number of rows.
        length: Number of tokens of the longest row; None for inputs of one size, such as images.
        rounds: How many rounds were measured.
    """

    stage: str
    batch: int
    length: int | None
    rounds: int


@dataclass(frozen=True)
class BenchLatency:
    """How long one way to run a bundle takes at one shape.

    Attributes:
        shape: The shape.
        bundle: `bundle` or `against`.
        run: Name of the adapter, `(no adapter)` or `(mixed rows)`.
        control: Whether this is the first run of the bundle measured a second time.
        wall: Milliseconds of a run on the clock.
        cpu: Milliseconds of a run of all threads together.
        wall_ratio: `wall` against that of the first run of the first bundle.
        cpu_ratio: `cpu` likewise.
        rows_per_second: By the median of `wall`.
        tokens_per_second: Likewise, padding not counted; None for inputs without tokens.
    """

    shape: BenchShape
    bundle: str
    run: str
    control: bool
    wall: Percentiles
    cpu: Percentiles
    wall_ratio: Ratio
    cpu_ratio: Ratio
    rows_per_second: float
    tokens_per_second: float | None


@dataclass(frozen=True)
class BenchComparison:
    """A run of the other bundle against the same run of the first one, at one shape.

    Attributes:
        shape: The shape.
        run: Name of the adapter, `(no adapter)` or `(mixed rows)`.
        wall_ratio: Of the times on the clock.
        cpu_ratio: Of the times of all threads together.
        control: Whether this compares the first run of the first bundle with itself. A ratio that is as near to 1 as
            this one is no difference.
    """

    shape: BenchShape
    run: str
    wall_ratio: Ratio
    cpu_ratio: Ratio
    control: bool


@dataclass(frozen=True)
class _Key:
    """One of the runs that are measured in turns; `target` is the number of the bundle."""

    target: int
    run: Run
    control: bool = False


def measure(
    targets: Mapping[str, BenchTarget], settings: BenchSettings, progress: Callable[[int, int], None]
) -> tuple[list[BenchLatency], list[BenchComparison]]:
    """Measures every run at every shape.

    Args:
        targets: One or two bundles by the name that the report has for them; the second is compared with the first.
        settings: What is measured.
        progress: Called with the number of finished shapes and the number of all shapes.

    Returns:
        The latencies and the comparisons.

    Raises:
        InputError: A model has no positions for a length; then nothing was measured.
    """
    shapes = list(_shapes(targets, settings))
    found: tuple[list[BenchLatency], list[BenchComparison]] = [], []
    for done, (stage, batch, length) in enumerate(shapes):
        progress(done, len(shapes))
        calls, rounds = _calls(list(targets.values()), settings, stage, batch, length or 1)
        seconds = interleaved(calls, rounds)
        shape = BenchShape(stage, batch, length, rounds)
        names = list(targets)
        maker = next(iter(targets.values())).maker
        tokens = batch if stage == TOKEN else maker.tokens(batch, length) if length else None
        found[0].extend(_latency(names, shape, key, seconds, tokens) for key in seconds)
        found[1].extend(_comparisons(shape, seconds) if len(names) > 1 else [])
    progress(len(shapes), len(shapes))
    return found


def _shapes(targets: Mapping[str, BenchTarget], settings: BenchSettings) -> Iterator[tuple[str, int, int | None]]:
    first = next(iter(targets.values()))
    lengths: Sequence[int | None] = settings.lengths if first.maker.takes_lengths else (None,)
    for target in targets.values():
        for length in lengths:
            if length is not None:
                target.check_length(length)
    for stage in first.stages:
        for batch in settings.batches:
            for length in lengths:
                yield stage, batch, length


def _calls(
    targets: Sequence[BenchTarget], settings: BenchSettings, stage: str, batch: int, length: int
) -> tuple[dict[_Key, Callable[[], object]], int]:
    """The functions that are measured at a shape, and the number of rounds."""
    keys = [
        _Key(number, run) for number, target in enumerate(targets) for run in target.runs
        # A row alone is no mixture.
        if batch > 1 or run.name != MIXED
    ]  # fmt: skip
    keys.insert(1, _Key(0, keys[0].run, control=True))
    if stage != TOKEN:
        calls = {key: targets[key.target].call(key.run, batch, length) for key in keys}
        return calls, settings.repeats or rounds_within(calls, settings.seconds)
    rooms = [room for target in targets if (room := target.room(length)) is not None]
    rounds = max(1, min([settings.repeats or _MOST_TOKENS, *(room - WARM_UP for room in rooms)]))
    if settings.repeats is None:
        # Generations of their own tell how many tokens fit in the time: those measured begin together.
        trial = {key: targets[key.target].tokens(key.run, batch, length, 2) for key in keys}
        rounds = min(rounds, rounds_within(trial, settings.seconds))
    count = rounds + WARM_UP
    return {key: targets[key.target].tokens(key.run, batch, length, count) for key in keys}, rounds


def _latency(
    names: Sequence[str], shape: BenchShape, key: _Key, seconds: Mapping[_Key, list[Seconds]], tokens: int | None
) -> BenchLatency:
    reference = next(iter(seconds.values()))
    wall = percentiles([_MILLISECONDS * value.wall for value in seconds[key]])
    return BenchLatency(
        shape,
        names[key.target],
        key.run.name,
        key.control,
        wall,
        percentiles([_MILLISECONDS * value.cpu for value in seconds[key]]),
        ratio(seconds[key], reference, "wall"),
        ratio(seconds[key], reference, "cpu"),
        shape.batch * _MILLISECONDS / wall.p50,
        None if tokens is None else tokens * _MILLISECONDS / wall.p50,
    )


def _comparisons(shape: BenchShape, seconds: Mapping[_Key, list[Seconds]]) -> Iterator[BenchComparison]:
    """Comparisons of the runs that both bundles have, and the control."""
    for key in seconds:
        other = key if key.control else next((k for k in seconds if k.target and k.run.name == key.run.name), None)
        mine = next(iter(seconds)) if key.control else key
        if key.target == 0 and other is not None:
            wall, cpu = (ratio(seconds[other], seconds[mine], clock) for clock in ("wall", "cpu"))
            yield BenchComparison(shape, key.run.name, wall, cpu, key.control)
