"""Makes random inputs of a model: texts, images, sounds, and the texts of a decoder."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

# (rows, tokens, side of the padding). With padding, each row has a third of the length fewer tokens than the row before
# it. The first row is full, unless it is the only one.
SHAPES = (
    (1, 1, "none"),
    (2, 1, "none"),
    (3, 9, "none"),
    (3, 9, "left"),
    (3, 9, "right"),
    (1, 13, "left"),
    (2, 13, "right"),
)


def shapes_for(module: Any, lengths: tuple[int, ...] = ()) -> list[tuple[int, int, str]]:
    """Returns the shapes to record: (rows, tokens, side of the padding).

    These are SHAPES and, for each of `lengths`, one row without padding and two rows with padding. For images the
    number of tokens is 0.
    """
    if "input_ids" not in _reads(module) and "decoder_input_ids" not in _reads(module):
        return [(rows, 0, "none") for rows in (1, 2, 3)]
    more = [shape for length in lengths for shape in ((1, length, "none"), (2, length, "left"))]
    return list(dict.fromkeys([*SHAPES, *more]))


def random_inputs(
    module: Any, shape: tuple[int, int, str], seed: int, *, classifies: bool = False
) -> dict[str, np.ndarray]:
    """Makes the inputs that the model's forward takes.

    These may be texts (input_ids, attention_mask, token_type_ids), images, sounds, and the text of a decoder. Each text
    ends with the model's end token, if it has one: classifiers with an encoder and a decoder search for it.

    Args:
        module: The model.
        shape: (rows, tokens, side of the padding).
        seed: Seed of the random numbers.
        classifies: Whether the model classifies. The decoder of an encoder-decoder then reads the encoder's text, and
            has no text of its own.

    Returns:
        Arrays by name, int64 for texts and float32 for images and sounds.
    """
    rows, length, padding = shape
    rng = np.random.default_rng(seed)
    reads, config = _reads(module), module.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    made: dict[str, np.ndarray] = {}
    if "input_ids" in reads and length:
        mask = _mask(rows, length, padding)
        special = {getattr(text, name, None) for name in ("pad_token_id", "eos_token_id")}
        usual = np.array([token for token in range(text.vocab_size) if token not in special])
        ids = rng.choice(usual, (rows, length))
        end, pad = getattr(text, "eos_token_id", None), getattr(text, "pad_token_id", None)
        if isinstance(end, int) and end < text.vocab_size:
            ids[np.arange(rows), length - 1 - mask[:, ::-1].argmax(axis=1)] = end
        made["input_ids"] = np.where(mask, ids, pad if isinstance(pad, int) else 0)
        made["attention_mask"] = mask.astype(np.int64)
        if "token_type_ids" in reads and (getattr(text, "type_vocab_size", 0) or 0) > 1:
            made["token_type_ids"] = np.where(mask, rng.integers(0, text.type_vocab_size, mask.shape), 0)
    if "pixel_values" in reads:
        vision = getattr(config, "vision_config", config)
        size = vision.image_size
        height, width = (size, size) if isinstance(size, int) else size
        made["pixel_values"] = rng.standard_normal((rows, vision.num_channels, height, width)).astype(np.float32)
    if "input_features" in reads:
        frames = 2 * config.max_source_positions
        made["input_features"] = rng.standard_normal((rows, config.num_mel_bins, frames)).astype(np.float32)
    if "decoder_input_ids" in reads and not classifies:
        made["decoder_input_ids"] = rng.integers(2, text.vocab_size, (rows, max(1, length - 2)))
    return made


def _reads(module: Any) -> set[str]:
    """Returns the names of the arguments of a model's forward.

    A library may have wrapped it in a forward without these names, so the forwards of all base classes are read too.
    """
    forwards = [kind.__dict__["forward"] for kind in type(module).__mro__ if "forward" in kind.__dict__]
    return {name for forward in forwards for name in inspect.signature(inspect.unwrap(forward)).parameters}


def _mask(rows: int, length: int, padding: str) -> np.ndarray:
    """Returns a boolean array [rows, length]: True for tokens, False for padding."""
    first = 1 if rows == 1 else 0
    lost = np.arange(first, first + rows) * (max(1, length // 3) if padding != "none" else 0)
    mask = np.arange(length)[None, :] < np.maximum(1, length - lost)[:, None]
    return mask[:, ::-1] if padding == "left" else mask
