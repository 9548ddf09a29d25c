"""Measures the latency of one or two bundles, for every batch size and length, and with every choice of adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from adapter_export.bench.settings import Settings
from adapter_export.bench.subject import MIXED, TOKEN, Run, Subject
from adapter_export.bench.summary import Percentiles, Ratio, percentiles, ratio
from adapter_export.bench.timing import WARM_UP, Seconds, interleaved, rounds_within

_MILLISECONDS = 1e3
# Largest number of new tokens measured, unless `repeats` or the positions of the model allow fewer.
_MOST_TOKENS = 256


@dataclass(frozen=True)
class Shape:
    """What is measured together.

    Attributes:
        stage: One of the stages in `subject`: run, prefill or token.
        batch: Number of rows.
        length: Number of tokens of the texts; None if the size of the inputs is fixed.
        rounds: Number of rounds measured.
    """

    stage: str
    batch: int
    length: int | None
    rounds: int


@dataclass(frozen=True)
class Latency:
    """Times of one choice of adapters, at one shape.

    Attributes:
        shape: The shape.
        bundle: Name of the bundle in the report.
        run: Name of the choice of adapters.
        control: Whether this is the control: the first run again, in the same session.
        wall: Wall time of a run, in milliseconds.
        cpu: CPU time of a run, in milliseconds.
        wall_ratio: Ratio of the wall time to that of the bundle's first run at this shape.
        cpu_ratio: Ratio of the CPU time to that of the bundle's first run at this shape.
        rows_per_second: Rows per second, from the p50 of the wall time.
        tokens_per_second: Tokens per second without padding, from the p50 of the wall time; None without a length.
    """

    shape: Shape
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
class Comparison:
    """Ratios of a run of the second bundle to the same run of the first, at one shape.

    Attributes:
        shape: The shape.
        run: Name of the choice of adapters.
        wall_ratio: Ratio of wall times.
        cpu_ratio: Ratio of CPU times.
        control: Whether this is the control: the first run of the first bundle, measured again, against itself. If
            another ratio is no farther from 1 than that of the control, the difference is noise.
    """

    shape: Shape
    run: str
    wall_ratio: Ratio
    cpu_ratio: Ratio
    control: bool


@dataclass(frozen=True)
class _Key:
    """One measurement of a round.

    Attributes:
        subject: Number of the bundle.
        run: The choice of adapters.
        control: Whether this is the control.
    """

    subject: int
    run: Run
    control: bool = False


def measure(
    subjects: Mapping[str, Subject], settings: Settings, progress: Callable[[int, int], None]
) -> tuple[list[Latency], list[Comparison]]:
    """Measures all shapes.

    Args:
        subjects: One or two bundles by their names in the report. The second is compared with the first.
        settings: What to measure.
        progress: Called with the number of shapes done and their total.

    Raises:
        InputError: A model does not have enough positions for a length. Nothing was measured then.
    """
    shapes = list(_shapes(subjects, settings))
    found: tuple[list[Latency], list[Comparison]] = [], []
    for done, (stage, batch, length) in enumerate(shapes):
        progress(done, len(shapes))
        calls, rounds = _calls(list(subjects.values()), settings, stage, batch, length or 1)
        seconds = interleaved(calls, rounds)
        shape = Shape(stage, batch, length, rounds)
        names = list(subjects)
        maker = next(iter(subjects.values())).maker
        tokens = batch if stage == TOKEN else maker.tokens(batch, length) if length else None
        found[0].extend(_latency(names, shape, key, seconds, tokens) for key in seconds)
        found[1].extend(_comparisons(shape, seconds) if len(names) > 1 else [])
    progress(len(shapes), len(shapes))
    return found


def _shapes(subjects: Mapping[str, Subject], settings: Settings) -> Iterator[tuple[str, int, int | None]]:
    first = next(iter(subjects.values()))
    lengths: Sequence[int | None] = settings.lengths if first.maker.takes_lengths else (None,)
    for subject in subjects.values():
        for length in lengths:
            if length is not None:
                subject.check_length(length)
    for stage in first.stages:
        for batch in settings.batches:
            for length in lengths:
                yield stage, batch, length


def _calls(
    subjects: Sequence[Subject], settings: Settings, stage: str, batch: int, length: int
) -> tuple[dict[_Key, Callable[[], object]], int]:
    """Returns the functions to measure at a shape, and the number of rounds."""
    keys = [
        _Key(number, run) for number, subject in enumerate(subjects) for run in subject.runs
        # A single row cannot have different adapters.
        if batch > 1 or run.name != MIXED
    ]  # fmt: skip
    keys.insert(1, _Key(0, keys[0].run, control=True))
    if stage != TOKEN:
        calls = {key: subjects[key.subject].call(key.run, batch, length) for key in keys}
        return calls, settings.repeats or rounds_within(calls, settings.seconds)
    rooms = [room for subject in subjects if (room := subject.room(length)) is not None]
    rounds = max(1, min([settings.repeats or _MOST_TOKENS, *(room - WARM_UP for room in rooms)]))
    if settings.repeats is None:
        # Separate generations are used to find out how many tokens fit in the time, because all measured ones must
        # begin together.
        trial = {key: subjects[key.subject].tokens(key.run, batch, length, 2) for key in keys}
        rounds = min(rounds, rounds_within(trial, settings.seconds))
    count = rounds + WARM_UP
    return {key: subjects[key.subject].tokens(key.run, batch, length, count) for key in keys}, rounds


def _latency(
    names: Sequence[str], shape: Shape, key: _Key, seconds: Mapping[_Key, list[Seconds]], tokens: int | None
) -> Latency:
    reference = next(iter(seconds.values()))
    wall = percentiles([_MILLISECONDS * value.wall for value in seconds[key]])
    return Latency(
        shape,
        names[key.subject],
        key.run.name,
        key.control,
        wall,
        percentiles([_MILLISECONDS * value.cpu for value in seconds[key]]),
        ratio(seconds[key], reference, "wall"),
        ratio(seconds[key], reference, "cpu"),
        shape.batch * _MILLISECONDS / wall.p50,
        None if tokens is None else tokens * _MILLISECONDS / wall.p50,
    )


def _comparisons(shape: Shape, seconds: Mapping[_Key, list[Seconds]]) -> Iterator[Comparison]:
    """Yields the comparisons of runs that both bundles have, and always that of the control."""
    for key in seconds:
        other = key if key.control else next((k for k in seconds if k.subject and k.run.name == key.run.name), None)
        mine = next(iter(seconds)) if key.control else key
        if key.subject == 0 and other is not None:
            wall, cpu = (ratio(seconds[other], seconds[mine], clock) for clock in ("wall", "cpu"))
            yield Comparison(shape, key.run.name, wall, cpu, key.control)
