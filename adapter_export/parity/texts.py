"""Cases of texts that the caller gives, in place of random ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.errors import InputError
from adapter_export.parity.cases import ParityCase, TextCase
from adapter_export.parity.whole_model import whole_model_inputs
from adapter_export.runtime.generation.prepare import generates
from adapter_export.runtime.generation.texts import PromptTexts
from adapter_export.runtime.text import TextEncoder

# The inputs that one text gives.
_KNOWN = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def text_inputs(bundle: Path, manifest: Manifest, texts: Sequence[str]) -> dict[ParityCase, dict[str, np.ndarray]]:
    """Returns a case for each text, with its inputs by name.

    Args:
        bundle: Folder of the bundle, whose tokenizer reads the texts.
        manifest: Its manifest.
        texts: The texts.

    Raises:
        InputError: The model takes more than a text, or the tokenizer makes no token of a text.
    """
    cases: dict[ParityCase, dict[str, np.ndarray]] = {}
    for number, text in enumerate(texts, start=1):
        inputs = encoded(bundle, manifest, [text])
        cases[TextCase(1, inputs["input_ids"].shape[1], number=number, text=text)] = inputs
    return cases


def encoded(bundle: Path, manifest: Manifest, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the inputs of the whole model for a batch of texts, by name.

    Raises:
        InputError: See `text_inputs`; or the texts of a generating model have different lengths.
    """
    inputs = whole_model_inputs(manifest)
    if "input_ids" not in inputs or (unknown := sorted({*inputs} - {*_KNOWN})):
        found = unknown[0] if "input_ids" in inputs else ", ".join(inputs)
        raise InputError(f"bundle {bundle}: takes {found}, which no text gives")
    if not generates(manifest):
        return TextEncoder(bundle, manifest).encode(texts).inputs
    prompts = PromptTexts(bundle)
    rows = [prompts.encode(text) for text in texts]
    if len({len(row) for row in rows}) > 1:
        raise InputError("texts of different lengths in one batch: a text that continues has no padding")
    ids = np.array(rows, np.int64)
    made = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
        "position_ids": np.tile(np.arange(ids.shape[1]), (len(ids), 1)),
    }
    return {name: made[name].astype(info.dtype) for name, info in inputs.items()}
