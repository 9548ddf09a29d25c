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


@dataclass(frozen=True)
class TextLimits:
    """vocabulary: number of token ids. pad: the id that padding has. types: number of token types. longest: the model's
    own maximum sequence. values: of one output per token. end: the id that ends each text, of models that look for it.
    """

    vocabulary: int
    pad: int
    types: int
    longest: int
    values: int
    end: int | None = None

    @property
    def judged(self) -> int:
        """The longest sequence judged: the model's maximum, or what LONGEST and MAX_VALUES allow of it."""
        return max(1, min(self.longest, LONGEST, MAX_VALUES // (2 * self.values)))


def text_cases(limits: TextLimits) -> list[Case]:
    """Batch 1 to 3; sequence 1, the traced length and its neighbours, a prime, the maximum; left, right and no padding.

    The longest ones cost most of the time, so they are two, of three rows in all, of which one is full.
    """
    lengths = [n for n in (SEQUENCE - 1, SEQUENCE, SEQUENCE + 1, PRIME) if n < limits.judged]
    cases = [Case(batch, 1) for batch in BATCHES]
    cases += [Case(batch, n, side) for n in lengths for batch in BATCHES for side in ("left", "right")]
    cases += [Case(batch, SEQUENCE) for batch in BATCHES if SEQUENCE in lengths]
    if limits.judged > 1:
        cases += [Case(1, limits.judged, "left"), Case(2, limits.judged, "right")]
    return cases


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
    """Random inputs of that shape, of the whole model (see `whole`). Raises InputError for an input that no rule here
    makes.

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
    """True where a token is, (B, T): rows lose a token, or a third of their length, more with each row."""
    step = max(1, case.length // 3)
    first = 1 if case.batch == 1 and case.padding != "none" else 0
    lost = np.arange(first, first + case.batch) * (step if case.padding != "none" else 0)
    kept = np.maximum(1, case.length - lost)
    mask: np.ndarray = np.arange(case.length)[None, :] < kept[:, None]
    return mask[:, ::-1] if case.padding == "left" else mask


def kept_positions(inputs: Mapping[str, np.ndarray], output: np.ndarray) -> np.ndarray | None:
    """Which positions of an output count: where it has vectors per token, the unpadded ones; else all (None)."""
    mask = inputs.get("attention_mask")
    if mask is None or output.ndim <= mask.ndim or output.shape[: mask.ndim] != mask.shape:
        return None
    return mask.astype(bool)
