"""The settings of a generation, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapter_export.errors import InputError


@dataclass(frozen=True)
class GenerationSettings:
    """How tokens are chosen and when a row ends. `AdapterSession.generate` describes each setting."""

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | Sequence[int] | None = None
    stop_tokens: Sequence[int] = ()
    ignore_eos: bool = False
    prefix: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range."""
        if not _whole(self.max_new_tokens) or self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens: expected a whole number from 1, found {self.max_new_tokens!r}")
        if not _number(self.temperature) or not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature: expected a number from 0 (greedy), found {self.temperature!r}")
        if self.top_k is not None and (not _whole(self.top_k) or self.top_k < 1):
            raise InputError(f"top_k: expected a whole number from 1, found {self.top_k!r}")
        if self.top_p is not None and (not _number(self.top_p) or not 0 < self.top_p <= 1):
            raise InputError(f"top_p: expected a number above 0 and up to 1, found {self.top_p!r}")
        penalty = self.repetition_penalty
        if penalty is not None and (not _number(penalty) or not 0 < penalty < float("inf")):
            raise InputError(f"repetition_penalty: expected a number above 0, found {penalty!r}")
        for seed in () if self.seed is None else self.seed if isinstance(self.seed, Sequence) else (self.seed,):
            if not _whole(seed) or seed < 0:
                raise InputError(f"seed: expected a whole number from 0, or one for each prompt, found {self.seed!r}")
        if self.temperature == 0:
            for name in ("top_k", "top_p", "seed"):
                if getattr(self, name) is not None:
                    raise InputError(f"{name}: expected a temperature above 0 with it; without one, decoding is greedy")
        for name in ("stop_tokens", "prefix"):
            if any(not _whole(token) for token in getattr(self, name)):
                raise InputError(f"{name}: expected token ids, found {getattr(self, name)!r}")

    def generators(self, rows: int) -> list[np.random.Generator]:
        """Returns one random generator for each row. The numbers of a row depend only on its own seed.

        Raises:
            InputError: There are several seeds, but not one for each row.
        """
        if isinstance(self.seed, Sequence):
            if len(self.seed) != rows:
                raise InputError(f"seed: expected one for each of the {rows} prompts, found {len(self.seed)}")
            return [np.random.default_rng(seed) for seed in self.seed]
        return [np.random.default_rng(None if self.seed is None else self.seed + row) for row in range(rows)]


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
