"""One row of a continuous batch: a caller's prompt, and the tokens that follow it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from adapter_export.runtime.adapters.choice import AdapterKey
from adapter_export.runtime.adapters.loaded import Lease
from adapter_export.runtime.continuous.caches import RowCache
from adapter_export.runtime.continuous.log_probabilities import log_probabilities
from adapter_export.runtime.continuous.stream import NewToken, TokenStream
from adapter_export.runtime.generation.sampling import RowChooser
from adapter_export.runtime.generation.stream import Finish


class Row:
    """A row from its prompt to its last token.

    Attributes:
        adapter: The adapter or composition; None for the base model.
        stream: Where its new tokens go.
        limit: Number of tokens at which it ends, prompt included.
        lease: Holds its adapter, from its first run on.
        cache: Keys and values of the tokens read so far, until it joins the batch.
        read: Number of its tokens that have been fed to the graph.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        adapter: AdapterKey | None,
        chooser: RowChooser,
        stops: Collection[int],
        max_new_tokens: int,
        logprobs: int | None,
        stream: TokenStream,
    ) -> None:
        """Takes the request.

        Args:
            prompt: Token ids.
            adapter: The adapter or composition; None for the base model.
            chooser: Chooses its tokens.
            stops: Tokens that end it.
            max_new_tokens: Largest number of new tokens.
            logprobs: Number of most probable tokens to return with each new one; None for no probabilities.
            stream: Where its new tokens go.
        """
        self.adapter, self.stream = adapter, stream
        self.limit = len(prompt) + max_new_tokens
        self.lease: Lease | None = None
        self.cache: RowCache = {}
        self.read = 0
        self._tokens, self._chooser, self._stops, self._logprobs = list(prompt), chooser, stops, logprobs
        self.ended = False

    @property
    def unread(self) -> list[int]:
        """The tokens that have not been fed to the graph."""
        return self._tokens[self.read :]

    def read_again(self) -> None:
        """Begins anew with all tokens so far, without a cache."""
        self.read, self.cache = 0, {}

    def choose(self, logits: np.ndarray) -> None:
        """Chooses the next token, and hands it to the reader. An error ends this row alone.

        Args:
            logits: Logits [vocabulary] that follow the row's last token.
        """
        try:
            token = self._chooser(logits)
            finish: Finish | None = None
            self._tokens.append(token)
            if token in self._stops:
                finish = "stop"
            elif len(self._tokens) == self.limit:
                finish = "length"
            self.stream.push(NewToken(token, finish, *log_probabilities(logits, token, self._logprobs)))
        except Exception as error:  # of any kind: it is the result of this row
            self.fail(error)
            return
        if finish is not None:
            self.release()

    def fail(self, error: BaseException) -> None:
        """Ends the row with an error, which its reader gets."""
        self.stream.end(error)
        self.release()

    def release(self) -> None:
        """Ends the row, and frees its cache and its adapter."""
        self.ended = True
        self.cache = {}
        if self.lease is not None:
            self.lease.release()
