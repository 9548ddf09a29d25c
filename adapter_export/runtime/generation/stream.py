"""The loop that generates: run the graph, choose a token for each row, feed it back.

Why a loop of our own: transformers' `generate` needs torch, and onnxruntime-genai is another runtime, with its own
session, that this one cannot share. What is needed from them is this loop and three filters over logits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from adapter_export.runtime.generation.bound_graph import CachedDecoder
from adapter_export.runtime.generation.decoder_inputs import Feeds
from adapter_export.runtime.generation.sampling import RowChooser
from adapter_export.runtime.process import Home

# stop: a stop token was chosen. length: `max_new_tokens` are there.
Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Step:
    """One new token a row. tokens: None for rows that had finished before. finish: why a row has ended, None while it
    goes on; a row's last token comes with it. logits: what the tokens were chosen from, [rows, vocabulary]; those of
    rows that had finished before mean nothing."""

    tokens: tuple[int | None, ...]
    finish: tuple[Finish | None, ...]
    logits: np.ndarray = field(compare=False, repr=False)


@dataclass(frozen=True)
class Completion:
    """The new tokens of one row, a stop token included, and why it ended; None when it was closed before."""

    tokens: tuple[int, ...]
    finish: Finish | None


class Generation:
    """A generation under way: an iterator of steps, for one thread.

        for step in session.generate(prompts, "poems", max_new_tokens=64):
            print(step.tokens)
        session.generate(prompts, max_new_tokens=64).completions()

    Each step is computed when it is asked for. `close` ends it at once and frees the cache; so does an error.
    """

    def __init__(
        self,
        decoder: CachedDecoder,
        feeds: Feeds,
        choosers: Sequence[RowChooser],
        stops: Collection[int],
        pad: int,
        max_new_tokens: int,
    ) -> None:
        self._home = Home("Generation")
        self._decoder: CachedDecoder | None = decoder
        self._feeds: Feeds | None = feeds
        self._inputs: dict[str, np.ndarray] = {}
        self._choosers, self._stops, self._pad, self._limit = choosers, stops, pad, max_new_tokens
        self._tokens: list[list[int]] = [[] for _ in choosers]
        self._finish: list[Finish | None] = [None for _ in choosers]

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> Step:
        if self._decoder is None or self._feeds is None:
            raise StopIteration
        self._home.check()
        try:
            step = self._step(self._decoder.run(self._inputs or self._feeds.first()))
        except BaseException:
            self.close()
            raise
        if None in self._finish:
            # Rows that have ended are computed on, for nobody: a smaller batch would have to copy the cache.
            fed = [self._pad if token is None else token for token in step.tokens]
            self._inputs = self._feeds.following(np.array(fed, np.int64))
            if self._feeds.afresh:
                self._decoder.forget()
        else:
            self.close()
        return step

    def completions(self) -> tuple[Completion, ...]:
        """Run to the end, then what every row has: after `close`, as far as it came."""
        for _ in self:
            pass
        return tuple(
            Completion(tuple(tokens), finish) for tokens, finish in zip(self._tokens, self._finish, strict=True)
        )

    def close(self) -> None:
        """End it here; the cache is freed."""
        self._decoder = self._feeds = None
        self._inputs = {}

    def _step(self, logits: np.ndarray) -> Step:
        """Choose a token for each row that goes on: logits [rows, vocabulary]."""
        chosen: list[int | None] = []
        for row, choose in enumerate(self._choosers):
            if self._finish[row] is not None:
                chosen.append(None)
                continue
            token = choose(logits[row])
            self._tokens[row].append(token)
            if token in self._stops:
                self._finish[row] = "stop"
            elif len(self._tokens[row]) == self._limit:
                self._finish[row] = "length"
            chosen.append(token)
        return Step(tuple(chosen), tuple(self._finish), logits)
