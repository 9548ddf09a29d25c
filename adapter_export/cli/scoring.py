"""Scores the rows of data files: what a bundle answers to each, in groups of rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from adapter_export.cli.answers import answers, check_answerable
from adapter_export.cli.completions import write
from adapter_export.cli.options import jsonable
from adapter_export.cli.text_requests import TextRequest, own_choice, parse_choice
from adapter_export.errors import InputError
from adapter_export.runtime.adapters.choice import AdapterKey

# Rows that are read and answered at a time.
GROUP = 256
_ADAPTER, _HEAD = "adapter", "head"


@dataclass(frozen=True)
class Scoring:
    """How rows are scored.

    Attributes:
        bundle: Folder of the bundle.
        provider: `cpu` or `cuda`.
        expect_sha256: Expected digest of the bundle's manifest; None for any.
        generation: Settings of a bundle that generates, as for `AdapterSession.generate`.
    """

    bundle: Path
    provider: str = "cpu"
    expect_sha256: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)


def read_requests(path: Path, text_column: str, adapter: AdapterKey | None) -> Iterator[TextRequest]:
    """Yields the rows of a data file.

    Args:
        path: A csv, tsv, jsonl or parquet file.
        text_column: Name of the column with texts.
        adapter: The adapter of rows that name none.

    Raises:
        InputError: The file cannot be read, a column is missing, or a value is wrong. The error names the row.
    """
    from adapter_export.training.row_readers import read_rows

    def columns(found: Sequence[str]) -> Sequence[str]:
        if text_column not in found:
            raise InputError(f"{path}: expected a column {text_column!r}, found {', '.join(found) or 'none'}")
        return [name for name in (text_column, _ADAPTER, _HEAD) if name in found]

    for place, row in read_rows(path, columns):
        where = f"{path}: {place}"
        text = row.get(text_column)
        if not isinstance(text, str):
            raise InputError(f"{where}: column {text_column!r}: expected a text")
        yield TextRequest(where, {"text": text}, _adapter(where, row) or adapter)


def groups(requests: Iterable[TextRequest]) -> Iterator[tuple[int, list[TextRequest]]]:
    """Yields groups of rows, each with the number of rows before it."""
    rest, first = iter(requests), 0
    while group := list(islice(rest, GROUP)):
        yield first, group
        first += len(group)


class Scorer:
    """Scores rows with a session of its own."""

    def __init__(self, scoring: Scoring) -> None:
        """Opens the bundle.

        Args:
            scoring: How rows are scored.

        Raises:
            InputError: The bundle is broken, reads no texts, or does not fit the settings.
            ProviderError: The session would run on another provider than the requested one.
        """
        from adapter_export.runtime.generation.prepare import generates
        from adapter_export.runtime.session import AdapterSession
        from adapter_export.runtime.text import TextEncoder

        self._generation = scoring.generation
        self._session = AdapterSession(scoring.bundle, provider=scoring.provider, expect_sha256=scoring.expect_sha256)
        try:
            self._encoder = None
            if not generates(self._session.manifest):
                self._encoder = TextEncoder(scoring.bundle, self._session.manifest)
            self._check_settings()
        except BaseException:
            self.close()
            raise

    def _check_settings(self) -> None:
        task = self._session.manifest.task
        if self._encoder is None:
            # By default it would follow from the longest row of a group.
            if "max_new_tokens" not in self._generation:
                raise InputError(f"--max-new-tokens: expected, as {self._session.bundle} generates (task {task})")
        elif self._generation:
            option = next(iter(self._generation)).replace("_", "-")
            raise InputError(f"--{option}: the graph of {self._session.bundle} does not generate (task {task})")

    def lines(self, first: int, requests: Sequence[TextRequest]) -> bytes:
        """Returns the results of a group of rows, each as a line of JSON.

        Args:
            first: Number of rows before the group.
            requests: The rows.

        Raises:
            InputError: A row cannot be answered.
        """
        for request in {request.adapter: request for request in reversed(requests)}.values():
            try:
                check_answerable(self._session, request.adapter)
            except InputError as error:
                raise InputError(f"{request.where}: {error}") from None
        if self._encoder is None:
            settings = dict(self._generation)
            if "seed" in settings:
                settings["seed"] += first
            found = write(self._session, requests, settings, chat=False, streamed=False)
        else:
            plain = [(str(request.given["text"]), request.adapter) for request in requests]
            found = answers(self._session, self._encoder, plain)
        return "".join(f"{json.dumps(jsonable(result), allow_nan=False)}\n" for result in found).encode()

    def close(self) -> None:
        """Closes the session."""
        self._session.close()


def score_here(scoring: Scoring, requests: Iterable[TextRequest]) -> Iterator[bytes]:
    """Yields the results of rows, in their order, as lines of JSON. This process scores them.

    Args:
        scoring: How rows are scored.
        requests: The rows.

    Raises:
        InputError: The bundle cannot be opened, or a row cannot be read or answered.
        ProviderError: The session would run on another provider than the requested one.
    """
    scorer = Scorer(scoring)
    try:
        for first, group in groups(requests):
            yield scorer.lines(first, group)
    finally:
        scorer.close()


def _adapter(where: str, row: Mapping[str, Any]) -> AdapterKey | None:
    """Returns the adapter that a row names, in a text also as NAME=STRENGTH,...; None if it names none."""
    own, head = row.get(_ADAPTER) or None, row.get(_HEAD) or None
    if not isinstance(own, str):
        return own_choice(where, {_ADAPTER: own, _HEAD: head})
    try:
        return parse_choice(own, head)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
