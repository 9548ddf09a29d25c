"""The generation loop: run the graph, choose a token for each row, feed the tokens to the next run.

Why there is a loop here: transformers' `generate` needs torch, and onnxruntime-genai is another runtime with its own
session, which this runtime cannot share. Only the loop and three filters over logits are needed from them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from adapter_export.runtime.generation.cache import Decoder
from adapter_export.runtime.generation.decoder_inputs import Feeds
from adapter_export.runtime.generation.sampling import RowChooser
from adapter_export.runtime.process import Home

# stop: a stop token was chosen. length: the row has `max_new_tokens` new tokens.
Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Step:
    """One new token for each row.

    Attributes:
        tokens: The new token of each row; None if the row had ended before.
        finish: Why each row has ended, set in the step of its last token; None while the row continues.
        logits: The logits that the tokens were chosen from, [rows, vocabulary]. Logits of rows that had ended before
            have no meaning.
    """

    tokens: tuple[int | None, ...]
    finish: tuple[Finish | None, ...]
    logits: np.ndarray = field(compare=False, repr=False)


@dataclass(frozen=True)
class Completion:
    """The complete result of one row.

    Attributes:
        tokens: The new tokens, including the stop token.
        finish: Why the row ended; None if the generation was closed before.
    """

    tokens: tuple[int, ...]
    finish: Finish | None


class Generation:
    """A generation in progress: an iterator of steps, for one thread.

        for step in session.generate(prompts, "poems", max_new_tokens=64):
            print(step.tokens)
        session.generate(prompts, max_new_tokens=64).completions()

    Each step is computed when it is requested. `close`, or an error, ends the generation and frees the cache.
    """

    def __init__(
        self,
        decoder: Decoder,
        feeds: Feeds,
        choosers: Sequence[RowChooser],
        stops: Collection[int],
        pad: int,
        max_new_tokens: int,
    ) -> None:
        """Prepares the loop.

        Args:
            decoder: The decoder's graph and its cache.
            feeds: Makes the inputs of each run.
            choosers: Chooses the tokens of each row.
            stops: Tokens that end a row.
            pad: Token fed for rows that have ended.
            max_new_tokens: Largest number of new tokens per row.
        """
        self._home = Home("Generation")
        self._decoder: Decoder | None = decoder
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
            inputs = self._inputs or self._feeds.first()
            step = self._step(self._decoder.run(inputs, self._feeds.last))
        except BaseException:
            self.close()
            raise
        if None in self._finish:
            # Rows that have ended are still computed: a smaller batch would need a copy of the cache.
            fed = [self._pad if token is None else token for token in step.tokens]
            self._inputs = self._feeds.following(np.array(fed, np.int64))
            if self._feeds.afresh:
                self._decoder.forget()
        else:
            self.close()
        return step

    def completions(self) -> tuple[Completion, ...]:
        """Runs all remaining steps, and returns the result of each row. After `close`, the tokens so far."""
        for _ in self:
            pass
        return tuple(
            Completion(tuple(tokens), finish) for tokens, finish in zip(self._tokens, self._finish, strict=True)
        )

    def close(self) -> None:
        """Ends the generation and frees the cache."""
        self._decoder = self._feeds = None
        self._inputs = {}

    def _step(self, logits: np.ndarray) -> Step:
        """Chooses a token for each row that has not ended, from logits [rows, vocabulary]."""
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
