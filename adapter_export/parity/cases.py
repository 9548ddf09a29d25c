"""The cases: the shapes at which a graph is checked, and random inputs of these shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapter_export.bundle.manifest import TensorInfo
from adapter_export.errors import InputError
from adapter_export.export.samples import SEQUENCE

BATCHES = (1, 2, 3)
# A length that is not a multiple of any power of two, tile size or unrolled loop.
PRIME = 13
# The longest sequence of the standard cases, in tokens. Some models allow millions of tokens, for which a forward in
# float64 would take hours.
LONGEST = 512
# The most values that one output of the longest case may have. Models with large vocabularies get shorter sequences.
MAX_VALUES = 1 << 24
# Borders beyond LONGEST are checked if (parameters of the model) x (tokens of a row) is at most MAX_WORK. The length is
# then at most MAX_BORDER tokens, because attention needs memory of the length squared.
MAX_WORK, MAX_BORDER = 1 << 34, 2048


@dataclass(frozen=True)
class ParityCase:
    """One shape of inputs.

    Attributes:
        batch: Number of rows.
        length: Tokens of the longest row; for speech models, of the decoder's text. 0 for images.
        padding: The side of the padding: `none`, `left` or `right`. `none` for images.
    """

    batch: int
    length: int = 0
    padding: str = "none"

    @property
    def padded(self) -> bool:
        """Whether rows are padded."""
        return self.padding != "none"

    @property
    def name(self) -> str:
        """The name in reports, such as `2 x 9 left`."""
        text = f" x {self.length}" if self.length else ""
        return f"{self.batch}{text}" + (f" {self.padding}" if self.padded else "")

    @property
    def kept(self) -> tuple[int, ...]:
        """Number of tokens of each row that are not padding.

        With padding, each row has a third of the length fewer tokens than the row before it, and at least one token.
        The first row is full, unless it is the only one.
        """
        step = max(1, self.length // 3)
        first = 1 if self.batch == 1 and self.padded else 0
        padded = (row * step if self.padded else 0 for row in range(first, first + self.batch))
        return tuple(max(1, self.length - tokens) for tokens in padded)


@dataclass(frozen=True)
class BorderCase(ParityCase):
    """A shape whose rows are on both sides of a border: each row has one token less than the row before it."""

    @property
    def name(self) -> str:
        return f"{super().name} border"

    @property
    def kept(self) -> tuple[int, ...]:
        return tuple(self.length - row for row in range(self.batch))


@dataclass(frozen=True)
class GreedyCase(ParityCase):
    """A batch of prompts of different lengths, the longest of `length` tokens.

    Attributes:
        new: Number of tokens to generate per prompt.
    """

    new: int = 0

    @property
    def name(self) -> str:
        return f"{self.batch} x {self.length} + {self.new} greedy"


@dataclass(frozen=True)
class TextCase(ParityCase):
    """A text that the caller gives, as the only row of its batch.

    Attributes:
        number: Which of the given texts it is, from 1.
        text: The text.
    """

    number: int = 0
    text: str = ""

    @property
    def name(self) -> str:
        return f"text {self.number}"


@dataclass(frozen=True)
class TextLimits:
    """What texts a model accepts, and how long they may be in the cases.

    Attributes:
        vocabulary: Number of token ids.
        pad: Token id of padding.
        types: Number of token types.
        longest: Longest sequence that the model accepts, in tokens.
        values: Number of values of one output per token.
        end: Token id that ends each text, for models that search for it; else None.
        borders: Borders of the model in tokens, see `borders.borders_of`.
        positions: Number of rows of the table of positions; 0 for a model without a table.
        parameters: Number of parameters of the model.
        unbounded: Whether the model accepts texts of any length.
        generation_limit: Longest text for which generation is checked, in tokens; None for no limit.
        sides: The sides on which the graph takes padding.
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
    unbounded: bool = False
    generation_limit: int | None = None
    sides: tuple[str, ...] = ("left", "right")

    @property
    def standard_length(self) -> int:
        """Length of the longest case, not counting those at borders: the model's maximum, limited by LONGEST and
        MAX_VALUES."""
        return max(1, min(self.longest, LONGEST, MAX_VALUES // (2 * self.values)))

    @property
    def checked_borders(self) -> tuple[int, ...]:
        """The borders that are checked: those for which a text of one token more is allowed.

        The last position of a table of positions counts as a border.
        """
        allowed = min(MAX_BORDER, MAX_WORK // max(1, self.parameters), MAX_VALUES // (3 * self.values))
        reach = min(self.longest, max(self.standard_length, allowed))
        inner = [border for border in self.borders if border + 1 <= reach]
        last = [self.positions] if 2 <= self.positions <= reach and self.positions == self.longest else []
        return tuple(dict.fromkeys([*inner, *last]))

    @property
    def longest_generated(self) -> int:
        """Length of the longest text for which generation is checked, in tokens."""
        return self.longest if self.generation_limit is None else min(self.longest, self.generation_limit)

    @property
    def checked_length(self) -> int | None:
        """Length of the longest text that is checked; None if the model has no borders and accepts no texts beyond."""
        reached = max(self.standard_length, *(min(border + 1, self.longest) for border in self.checked_borders), 1)
        unchecked = [border for border in self.borders if border < self.longest and border not in self.checked_borders]
        if self.generation_limit is not None:
            return min(reached, self.generation_limit)
        return reached if unchecked or (reached < self.longest and not self.unbounded) else None


def text_cases(limits: TextLimits) -> list[ParityCase]:
    """Returns the cases for texts.

    Batch sizes 1 to 3; lengths 1, the traced length, one token less and one more, a prime number, and the maximum;
    padding on the left, on the right, and none. The cases of the maximum length take most of the time, so there are two
    of them, with three rows in all, of which one is full. Each border of the model has two cases, one per side of the
    padding, whose rows have one token less than the border, as many, and one more.
    """
    lengths = [n for n in (SEQUENCE - 1, SEQUENCE, SEQUENCE + 1, PRIME) if n < limits.standard_length]
    cases = [ParityCase(batch, 1) for batch in BATCHES]
    cases += [ParityCase(batch, n, side) for n in lengths for batch in BATCHES for side in limits.sides]
    cases += [ParityCase(batch, SEQUENCE) for batch in BATCHES if SEQUENCE in lengths]
    standard = limits.standard_length
    is_checked_border = standard == limits.positions and limits.positions in limits.checked_borders
    if standard > 1 and not is_checked_border:
        cases += [ParityCase(1, standard, limits.sides[0]), ParityCase(2, standard, limits.sides[-1])]
    return [*cases, *border_cases(limits)]


def border_cases(limits: TextLimits) -> list[ParityCase]:
    """Returns two cases per border. No row has more tokens than the model accepts."""
    sizes = {border: min(border + 1, limits.longest) for border in limits.checked_borders}
    return [
        BorderCase(size - max(border - 1, 1) + 1, size, side)
        for border, size in sizes.items()
        if size > 1
        for side in limits.sides
    ]


def sound_cases(limits: TextLimits) -> list[ParityCase]:
    """Returns the cases for speech models.

    Batch sizes 1 to 3. All sounds have the one length that the model accepts. The decoder's texts have the lengths of
    `text_cases`, without padding.
    """
    lengths = dict.fromkeys(case.length for case in text_cases(limits))
    return [ParityCase(batch, length) for length in lengths for batch in BATCHES]


def image_cases() -> list[ParityCase]:
    """Returns the cases for images: batch sizes 1 to 3. All images have the one size that the model accepts."""
    return [ParityCase(batch) for batch in BATCHES]


def cases_for(inputs: Collection[str], limits: TextLimits | None) -> list[ParityCase]:
    """Returns the cases for a model.

    Args:
        inputs: Names of the model's inputs.
        limits: Limits of the texts; None for a model without texts.
    """
    if limits is None:
        return image_cases()
    return sound_cases(limits) if "input_features" in inputs else text_cases(limits)


def make_inputs(
    case: ParityCase, inputs: Mapping[str, TensorInfo], limits: TextLimits | None, seed: int
) -> dict[str, np.ndarray]:
    """Makes random inputs of the whole model (see `whole_model`).

    Token types are random if the graph takes them: they are zero in the traced example, and a graph could contain them
    as a constant. Positions count the tokens of each row. A decoder's text has two tokens less than the encoder's. For
    a model that takes texts and images there is one image more than there are texts.

    Args:
        case: The shape.
        inputs: Dtypes and shapes by name.
        limits: Limits of the texts; None for a model without texts.
        seed: Seed of the random numbers.

    Returns:
        Arrays by name, in the dtypes of `inputs`.

    Raises:
        InputError: There is an input that this function cannot make.
    """
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    if limits is not None:
        shape = (case.batch, case.length)
        mask = _mask(case)
        ids = rng.integers(0, limits.vocabulary - 1, shape)
        ids += ids >= limits.pad  # excludes the id of padding
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


def _mask(case: ParityCase) -> np.ndarray:
    """Returns a boolean array [batch, tokens]: True for tokens, False for padding."""
    mask: np.ndarray = np.arange(case.length)[None, :] < np.array(case.kept)[:, None]
    return mask[:, ::-1] if case.padding == "left" else mask


def kept_positions(inputs: Mapping[str, np.ndarray], output: np.ndarray) -> np.ndarray | None:
    """Returns which positions of an output are compared.

    Args:
        inputs: Arrays by name.
        output: One output for these inputs.

    Returns:
        A boolean mask [batch, tokens] of the positions without padding, if the output has a vector per token. None for
        all positions.
    """
    mask = inputs.get("attention_mask")
    if mask is None or output.ndim <= mask.ndim or output.shape[: mask.ndim] != mask.shape:
        return None
    return mask.astype(bool)
