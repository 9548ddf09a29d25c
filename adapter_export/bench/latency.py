"""Latency of one bundle or two, side by side: every batch and length, every way to run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from adapter_export.bench.settings import BenchSettings
from adapter_export.bench.subject import MIXED, TOKEN, MeasuredBundle, Run
from adapter_export.bench.summary import Percentiles, Ratio, percentiles, ratio
from adapter_export.bench.timing import WARM_UP, Seconds, interleaved, rounds_within

_MILLISECONDS = 1e3
# Of generating, where neither `repeats` nor the model's positions say less.
_MOST_TOKENS = 256


@dataclass(frozen=True)
class Shape:
    """stage: what is measured, see `subject`. length: of texts, None where inputs have one size. rounds: measured."""

    stage: str
    batch: int
    length: int | None
    rounds: int


@dataclass(frozen=True)
class Latency:
    """One way to run a bundle, at one shape.

    wall, cpu: milliseconds of a run. control: the first run again, by the same session. wall_ratio, cpu_ratio: to the
    bundle's first run at this shape. Rates are by the wall's p50; of tokens those that are no padding.
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
    """The same run of the other bundle against this one's, at one shape. control: this one's first run again, against
    itself; what other ratios differ from 1 by no more than this one is noise."""

    shape: Shape
    run: str
    wall_ratio: Ratio
    cpu_ratio: Ratio
    control: bool


@dataclass(frozen=True)
class _Key:
    """What is measured in a round. subject: its number."""

    subject: int
    run: Run
    control: bool = False


def measure(
    subjects: Mapping[str, MeasuredBundle], settings: BenchSettings, progress: Callable[[int, int], None]
) -> tuple[list[Latency], list[Comparison]]:
    """All shapes. subjects: by what the report calls them; the second, if any, is compared with the first.

    Raises InputError for shapes that a model has no positions for; then nothing was measured.
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


def _shapes(subjects: Mapping[str, MeasuredBundle], settings: BenchSettings) -> Iterator[tuple[str, int, int | None]]:
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
    subjects: Sequence[MeasuredBundle], settings: BenchSettings, stage: str, batch: int, length: int
) -> tuple[dict[_Key, Callable[[], object]], int]:
    """What is measured at a shape, and for how many rounds."""
    keys = [
        _Key(number, run) for number, subject in enumerate(subjects) for run in subject.runs
        # A row alone is no mixture.
        if batch > 1 or run.name != MIXED
    ]  # fmt: skip
    keys.insert(1, _Key(0, keys[0].run, control=True))
    if stage != TOKEN:
        calls = {key: subjects[key.subject].call(key.run, batch, length) for key in keys}
        return calls, settings.repeats or rounds_within(calls, settings.seconds)
    rooms = [room for subject in subjects if (room := subject.room(length)) is not None]
    rounds = max(1, min([settings.repeats or _MOST_TOKENS, *(room - WARM_UP for room in rooms)]))
    if settings.repeats is None:
        # Generations of their own tell how many tokens fit in the time: those measured begin together.
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
    """Runs of the same name in both; the control is there in any case."""
    for key in seconds:
        other = key if key.control else next((k for k in seconds if k.subject and k.run.name == key.run.name), None)
        mine = next(iter(seconds)) if key.control else key
        if key.subject == 0 and other is not None:
            wall, cpu = (ratio(seconds[other], seconds[mine], clock) for clock in ("wall", "cpu"))
            yield Comparison(shape, key.run.name, wall, cpu, key.control)
