"""All parsers, fed with the committed corpus: valid files, and what they failed on once. `make fuzz` looks for more."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Iterator

import pytest

from tests.fuzz.mutators import scramble
from tests.fuzz.seeds import CORPUS
from tests.fuzz.targets import TARGETS, remove_folders

FILES = sorted(path for path in CORPUS.glob("*/*"))
# Far more than any takes; of those that start a child process for an expression, its own limit comes first.
MAX_SECONDS = 12
MUTATIONS = 60


@pytest.fixture(autouse=True, scope="module")
def _remove() -> Iterator[None]:
    yield
    remove_folders()


@pytest.mark.parametrize("name", TARGETS)
def test_each_parser_has_valid_input(name: str) -> None:
    """Fuzzing starts from it: with nothing that gets through, it would try the first line of a parser alone."""
    seeds = list((CORPUS / name).glob("seed-*"))
    assert any(TARGETS[name].feed(path.read_bytes()) == "" for path in seeds), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_corpus(path: object) -> None:
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TARGETS[path.parent.name].feed(path.read_bytes())  # type: ignore[attr-defined]
    assert time.monotonic() - start < MAX_SECONDS


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name: str) -> None:
    """A glance of what the fuzzer does, the same in every run."""
    target, rng = TARGETS[name], random.Random(name)
    seeds = [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
    said = set()
    for _ in range(MUTATIONS):
        start = time.monotonic()
        data = rng.choice(seeds)
        for _ in range(rng.choice((1, 1, 2, 4))):
            data = target.mutate(data, 1 << 16, rng, scramble(rng))
        said.add(target.feed(data))
        assert time.monotonic() - start < MAX_SECONDS
    assert len(said) > 1 or not target.refuses
