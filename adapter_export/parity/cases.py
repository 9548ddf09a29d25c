"""The shapes a graph is judged at, and the inputs for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapter_export.bundle.manifest import TensorInfo
from adapter_export.errors import InputError
from adapter_export.export.samples import SEQUENCE

BATCHES = (1, 2, 3)
# A length that no power of two, tile or unrolled loop divides.
PRIME = 13
# The longest sequence judged: a float64 forward at the millions of tokens some models allow would take hours.
LONGEST = 512
# Values of one output of a longest case, above which the sequence is shortened: large vocabularies.
MAX_VALUES = 1 << 24
# Borders of the model's own are judged beyond LONGEST, as far as parameters x tokens of a row stay below this, and the
# square of their length in memory.
MAX_WORK, MAX_BORDER = 1 << 34, 2048


@dataclass(frozen=True)
class Case:
    """One shape. length, padding (`none`, `left`, `right`): of texts, or of what is written about sounds; 0 and `none`
    for images."""

    batch: int
    length: int = 0
    padding: str = "none"

    @property
    def name(self) -> str:
        text = f" x {self.length}" if self.length else ""
        return f"{self.batch}{text}" + ("" if self.padding == "none" else f" {self.padding}")

    @property
    def kept(self) -> tuple[int, ...]:
        """Tokens of each row: rows lose a token, or a third of their length, more with each row."""
        step = max(1, self.length // 3)
        first = 1 if self.batch == 1 and self.padding != "none" else 0
        lost = (row * step if self.padding != "none" else 0 for row in range(first, first + self.batch))
        return tuple(max(1, self.length - tokens) for tokens in lost)


@dataclass(frozen=True)
class BorderCase(Case):
    """Rows on both sides of a border: each has one token less than the one before."""

    @property
    def name(self) -> str:
        return f"{super().name} border"

    @property
    def kept(self) -> tuple[int, ...]:
        return tuple(self.length - row for row in range(self.batch))


@dataclass(frozen=True)
class TextLimits:
    """vocabulary: number of token ids. pad: the id that padding has. types: number of token types. longest: the model's
    own maximum sequence. values: of one output per token. end: the id that ends each text, of models that look for it.
    borders: lengths at which the model begins to compute otherwise (`borders.borders_of`). positions: room of its table
    of positions, 0 without. parameters: of the model. endless: whether nothing bounds a text. written: the longest text
    that generating is judged at, None for any.
    """

    vocabulary: int
    pad: int
    types: int
    longest: int
    values: int
    end: int | None = None
    borders: tuple[int, ...] = ()
    positions: int = 0
    parameters: int = 0
    endless: bool = False
    written: int | None = None

    @property
    def judged(self) -> int:
        """The longest sequence judged wherever borders are: the model's maximum, or what LONGEST and MAX_VALUES allow
        of it."""
        return max(1, min(self.longest, LONGEST, MAX_VALUES // (2 * self.values)))

    @property
    def crossed(self) -> tuple[int, ...]:
        """Borders that are judged: one token beyond each is within what is allowed. The last position is one itself."""
        allowed = min(MAX_BORDER, MAX_WORK // max(1, self.parameters), MAX_VALUES // (3 * self.values))
        reach = min(self.longest, max(self.judged, allowed))
        inner = [border for border in self.borders if border + 1 <= reach]
        last = [self.positions] if 2 <= self.positions <= reach and self.positions == self.longest else []
        return tuple(dict.fromkeys([*inner, *last]))

    @property
    def writable(self) -> int:
        """The longest text that generating is judged at."""
        return self.longest if self.written is None else min(self.longest, self.written)

    @property
    def beyond(self) -> int | None:
        """The longest text judged, where the model has borders or takes texts beyond it; else None."""
        reached = max(self.judged, *(min(border + 1, self.longest) for border in self.crossed), 1)
        more = [border for border in self.borders if border < self.longest and border not in self.crossed]
        if self.written is not None:
            return min(reached, self.written)
        return reached if more or (reached < self.longest and not self.endless) else None


def text_cases(limits: TextLimits) -> list[Case]:
    """Batch 1 to 3; sequence 1, the traced length and its neighbours, a prime, the maximum; left, right and no padding.

    The longest ones cost most of the time, so they are two, of three rows in all, of which one is full. Each border of
    the model has two: rows of one token less, as many, and one more, with either padding.
    """
    lengths = [n for n in (SEQUENCE - 1, SEQUENCE, SEQUENCE + 1, PRIME) if n < limits.judged]
    cases = [Case(batch, 1) for batch in BATCHES]
    cases += [Case(batch, n, side) for n in lengths for batch in BATCHES for side in ("left", "right")]
    cases += [Case(batch, SEQUENCE) for batch in BATCHES if SEQUENCE in lengths]
    if limits.judged > 1 and not (limits.judged == limits.positions and limits.positions in limits.crossed):
        cases += [Case(1, limits.judged, "left"), Case(2, limits.judged, "right")]
    return [*cases, *border_cases(limits)]


def border_cases(limits: TextLimits) -> list[Case]:
    """Nothing has more tokens than there are positions."""
    sizes = {border: min(border + 1, limits.longest) for border in limits.crossed}
    return [
        BorderCase(size - max(border - 1, 1) + 1, size, side)
        for border, size in sizes.items()
        if size > 1
        for side in ("left", "right")
    ]


def sound_cases(limits: TextLimits) -> list[Case]:
    """Batch 1 to 3, of sounds of the one length their model takes; what is written about them, without padding, as long
    as texts are."""
    lengths = dict.fromkeys(case.length for case in text_cases(limits))
    return [Case(batch, length) for length in lengths for batch in BATCHES]


def image_cases() -> list[Case]:
    """Batch 1 to 3: images have the one size their model takes."""
    return [Case(batch) for batch in BATCHES]


def cases_for(inputs: Collection[str], limits: TextLimits | None) -> list[Case]:
    """The cases for a model that takes these inputs."""
    if limits is None:
        return image_cases()
    return sound_cases(limits) if "input_features" in inputs else text_cases(limits)


def make_inputs(
    case: Case, inputs: Mapping[str, TensorInfo], limits: TextLimits | None, seed: int
) -> dict[str, np.ndarray]:
    """Random inputs of that shape, of the whole model (see `whole_model`).

    Raises InputError for an input that no rule here makes.

    Padding: of several rows the first is full and the others are not; a single row is padded too. Token types are
    random where the graph takes them: the trace has zeros, which a graph could have baked in. Positions count within
    each row. A decoder's text has another length than the encoder's. Beside texts, images are one more than those.
    """
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    if limits is not None:
        shape = (case.batch, case.length)
        mask = _mask(case)
        ids = rng.integers(0, limits.vocabulary - 1, shape)
        ids += ids >= limits.pad  # any id but the padding's
        if limits.end is not None:
            ids[ids == limits.end] = next(i for i in range(3) if i not in (limits.pad, limits.end))
            ids[np.arange(case.batch), case.length - 1 - mask[:, ::-1].argmax(axis=1)] = limits.end
        types = rng.integers(0, max(1, limits.types), shape)
        made = {
            "input_ids": np.where(mask, ids, limits.pad),
            "attention_mask": mask,
            "token_type_ids": np.where(mask, types, 0),
            "position_ids": np.maximum(mask.cumsum(axis=1) - 1, 0),
            "decoder_input_ids": rng.integers(
                0,
                limits.vocabulary - 1,
                (case.batch, max(1, case.length - 2) if "input_ids" in inputs else case.length),
            ),
        }
    for name in ("pixel_values", "input_features"):
        if name in inputs:
            rows = case.batch + 1 if name == "pixel_values" and "input_ids" in inputs else case.batch
            made[name] = rng.standard_normal((rows, *(int(dim) for dim in inputs[name].shape[1:])))
    if unknown := set(inputs) - set(made):
        raise InputError(f"graph input {min(unknown)!r}: parity can make {', '.join(made) or 'none of its inputs'}")
    return {name: made[name].astype(info.dtype) for name, info in inputs.items()}


def _mask(case: Case) -> np.ndarray:
    """True where a token is, (B, T)."""
    mask: np.ndarray = np.arange(case.length)[None, :] < np.array(case.kept)[:, None]
    return mask[:, ::-1] if case.padding == "left" else mask


def kept_positions(inputs: Mapping[str, np.ndarray], output: np.ndarray) -> np.ndarray | None:
    """Which positions of an output count: where it has vectors per token, the unpadded ones; else all (None)."""
    mask = inputs.get("attention_mask")
    if mask is None or output.ndim <= mask.ndim or output.shape[: mask.ndim] != mask.shape:
        return None
    return mask.astype(bool)
