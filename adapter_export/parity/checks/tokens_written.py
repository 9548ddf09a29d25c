"""Measures the tokens that the runtime wrote, and the logits from which it chose them, against those of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.parity.bundle_runner import Generated
from adapter_export.parity.criteria.measure import (
    Measurement,
    OutputArrays,
    OutputSet,
    TokenAgreement,
    TokenDifference,
    measure,
)
from adapter_export.parity.expected import ExpectedTokens, StateReference
from adapter_export.parity.whole_model import whole_model_inputs, whole_model_outputs
from adapter_export.runtime.generation.config import GenerationConfig
from adapter_export.runtime.generation.processors import Row, processed, processors_for

# Returns those columns of an array's last axis that PyTorch's logits have.
Columns = Callable[[np.ndarray], np.ndarray]


def all_columns(values: np.ndarray) -> np.ndarray:
    """Returns the array itself: PyTorch's logits have all columns."""
    return values


def rows_before_new(manifest: Manifest, config: GenerationConfig, prompts: Sequence[Any], new: int) -> list[Row]:
    """Returns each prompt in the form that the runtime's rules take.

    Args:
        manifest: The manifest of the bundle.
        config: The bundle's generation config.
        prompts: One per row.
        new: Number of tokens to generate per prompt.
    """
    if manifest.encoder is None:
        return [Row(prompt, prompt, (), new) for prompt in prompts]
    text = "input_features" not in whole_model_inputs(manifest)
    return [Row(config.begin, prompt if text else None, (), new) for prompt in prompts]


def measure_tokens(
    manifest: Manifest,
    config: GenerationConfig,
    rows: Sequence[Row],
    reference: ExpectedTokens,
    generated: Generated,
    columns: Columns = all_columns,
) -> Measurement:
    """Measures generated texts.

    PyTorch read the tokens of `reference`. If other tokens were written now, the logits of a row are compared up to the
    first token that differs: until there, PyTorch read the same text.

    Args:
        manifest: The manifest of the bundle.
        config: The bundle's generation config.
        rows: The prompts, one per row.
        reference: What PyTorch computes.
        generated: What the runtime wrote.
        columns: Selects the columns of PyTorch's logits.
    """
    if generated.tokens.shape != reference.tokens.shape:
        shapes = f"expected {list(reference.tokens.shape)}, found {list(generated.tokens.shape)}"
        return Measurement(fails=(f"tokens: {shapes}",))
    same = generated.tokens == reference.tokens
    kept = np.concatenate([np.ones_like(same[:, :1]), np.logical_and.accumulate(same, axis=1)[:, :-1]], axis=1)
    logits, expected = columns(generated.logits), reference.expected
    on = _arrays(expected.on, logits)
    off = None if expected.off is None else _arrays(expected.off, None)
    dtype = whole_model_outputs(manifest)["logits"].dtype
    measurement = measure(OutputSet(on, off, kept, dtype, classes=manifest.quantize.used))
    if measurement.on is None:
        return measurement
    scores = scores_by_rules(generated.logits, generated.tokens, without_forced_end(config), rows)
    not_largest = int((scores.argmax(-1) != generated.tokens).sum())
    tokens = compare_choices(reference, generated.tokens, columns(scores), kept)
    count = generated.tokens.size
    fails = (f"{not_largest} of {count} tokens are not the largest of their logits",) if not_largest else ()
    return replace(measurement, tokens=tokens, fails=fails)


def _arrays(state: StateReference, actual: np.ndarray | None) -> OutputArrays:
    return OutputArrays(state[0]["logits"], tuple(target["logits"] for target in state[1]), actual)


def without_forced_end(config: GenerationConfig) -> GenerationConfig:
    """Returns the config for a caller that ignores end tokens, as parity does: no end token is forced."""
    return replace(config, rules=replace(config.rules, forced_eos_token_id=()))


def scores_by_rules(
    logits: np.ndarray, tokens: np.ndarray, config: GenerationConfig, rows: Sequence[Row]
) -> np.ndarray:
    """Returns the scores from which tokens are chosen: logits after the rules of the bundle, float64.

    Args:
        logits: Logits [rows, new, vocabulary].
        tokens: Generated tokens [rows, new]. The rules for a token depend on the tokens before it.
        config: The generation config to apply.
        rows: The prompts, one per row.
    """
    processors = [processors_for(config.rules, row) for row in rows]
    return np.array(
        [
            [processed(own, [*row.written, *new[:step]], logits[i, step]) for step in range(len(new))]
            for i, (row, own, new) in enumerate(zip(rows, processors, tokens.tolist(), strict=True))
        ],
        np.float64,
    )


def choices(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens with the largest scores, and how far the two largest scores are apart."""
    second, first = np.moveaxis(np.partition(scores, -2, axis=-1)[..., -2:], -1, 0)
    # Where a rule leaves a single token, the second score is -inf.
    return scores.argmax(-1), first - second


def compare_choices(
    reference: ExpectedTokens, tokens: np.ndarray, scores: np.ndarray, kept: np.ndarray
) -> TokenAgreement:
    """Compares generated tokens with those that R chooses.

    Args:
        reference: What PyTorch computes.
        tokens: Generated tokens [rows, new].
        scores: O by the rules of the bundle, in the columns of `reference.scores`.
        kept: Which tokens to compare [rows, new].
    """
    expected = reference.scores
    finite = np.isfinite(expected) & np.isfinite(scores) & kept[..., None]
    error = float(np.abs(np.where(finite, scores, 0) - np.where(finite, expected, 0)).max())
    clear = kept & (reference.margin > 2 * error)
    agreed = clear & (reference.choice == tokens)
    differing = tuple(
        TokenDifference(
            row,
            step,
            int(tokens[row, step]),
            int(reference.choice[row, step]),
            float(reference.margin[row, step]),
            bool(clear[row, step]),
        )
        for row, step in np.argwhere(kept & (reference.choice != tokens)).tolist()
    )
    return TokenAgreement(int(kept.sum()), int(clear.sum()), int(agreed.sum()), differing)
