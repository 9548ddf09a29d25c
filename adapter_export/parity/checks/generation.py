"""Checks generation: texts that the runtime writes greedily, against PyTorch.

The runtime's own loop writes tokens behind a batch of prompts. PyTorch then reads each prompt with its new tokens, each
row separately and without padding, in one forward; in two forwards if the runtime reads the text again on the way.

The logits from which the runtime chose the tokens are judged like other outputs. In addition, the rules of the bundle's
generation_config.json are applied to the logits of both sides, and the tokens are compared: where the two largest
logits of R are more than twice max|O - R| apart, the token has a clear margin, and O must choose as R does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.export.samples import SEQUENCE
from adapter_export.parity.bundle_runner import BundleRunner, attempt
from adapter_export.parity.cases import PRIME, GreedyCase, TextLimits
from adapter_export.parity.checks.tokens_written import (
    choices,
    measure_tokens,
    rows_before_new,
    scores_by_rules,
    without_forced_end,
)
from adapter_export.parity.criteria.measure import Measurement
from adapter_export.parity.criteria.retries import ROUNDINGS
from adapter_export.parity.expected import Expected, ExpectedTokens, Observer
from adapter_export.parity.references.float64 import Float64Reference
from adapter_export.parity.references.pytorch import Reference
from adapter_export.parity.references.separate_rows import SeparateRows
from adapter_export.parity.report import NO_ADAPTER
from adapter_export.parity.whole_model import whole_model_inputs

# Number of tokens to generate per prompt, if the model accepts texts of that length.
NEW_TOKENS = 16
# Lengths of the prompts in tokens. One has a single token, and the last row is not the longest.
_PROMPT_LENGTHS = (SEQUENCE, 1, PRIME, 5)
# For prompts whose texts cross a border: how many tokens before the border each prompt ends. The second prompt ends one
# token beyond the border.
_TOKENS_BEFORE_BORDER = (NEW_TOKENS // 2, -1, 1)


class GreedyCaseRunner:
    """Generates texts from a batch of prompts, with every adapter and without any, and measures the logits.

    Attributes:
        case: The case that is run.
    """

    def __init__(
        self,
        manifest: Manifest,
        exact: Float64Reference,
        target: Reference,
        runner: BundleRunner,
        limits: TextLimits,
        border: int | None = None,
    ) -> None:
        """Chooses the lengths of the prompts and of the generated texts.

        Args:
            manifest: The manifest of the bundle.
            exact: Computes R.
            target: Computes T.
            runner: Computes O.
            limits: Limits of the texts.
            border: A border that the texts must cross, or at which they must end if it is the last position. None for
                short texts.
        """
        self._manifest, self._exact, self._target, self._runner = manifest, exact, target, runner
        self._limits = limits
        self._config = runner.generation_config
        allowed = limits.standard_length if border is None else border + NEW_TOKENS
        max_length = min(allowed, limits.longest_generated, self._manifest.longest_text or allowed)
        self._new = min(NEW_TOKENS, max(1, max_length // 2))
        # The last token is chosen but never read, so a text at a border may have one token more.
        longest_prompt = max(1, max_length - self._new + (border is not None))
        lengths = _PROMPT_LENGTHS if border is None else [border - before for before in _TOKENS_BEFORE_BORDER]
        self._lengths = [max(1, min(length, longest_prompt)) for length in lengths]
        self.case = GreedyCase(len(self._lengths), max(self._tokens_before_new), new=self._new)

    @property
    def tokens_read(self) -> int:
        """Length of the longest text that the model reads, in tokens."""
        return max(self._lengths) + self._new - 1

    def prompts(self, seed: int) -> list[Any]:
        """Returns random prompts, one per row.

        Args:
            seed: Seed of the random numbers.
        """
        return _prompts(self._manifest, self._limits, self._lengths, np.random.default_rng(seed))

    def run(
        self,
        adapters: Mapping[str, Adapter],
        prompts: Sequence[Any],
        roundings: int = 1,
        observer: Observer | None = None,
    ) -> dict[tuple[str, str], Measurement]:
        """Measures the case.

        Args:
            adapters: The adapters by name.
            prompts: One per row, see `prompts`.
            roundings: Number of roundings in which T is computed.
            observer: Is given R, and T in ROUNDINGS roundings.

        Returns:
            Measurements by adapter and output, like those of `CaseRunner`.
        """
        base: dict[str, Adapter | None] = {NO_ADAPTER: None} if self._runner.has_off_state else {}
        return {
            (name, "logits"): self._measure(prompts, name, adapter, roundings, observer)
            for name, adapter in {**base, **adapters}.items()
        }

    def _measure(
        self, prompts: Sequence[Any], name: str, adapter: Adapter | None, roundings: int, observer: Observer | None
    ) -> Measurement:
        generated = attempt(self._runner.generate, prompts, None if adapter is None else name, self._new)
        if isinstance(generated, str):
            return Measurement(fails=(f"did not run: {generated}",))
        rows = rows_before_new(self._manifest, self._config, prompts, self._new)
        expected = self._expected(
            prompts, name, adapter, generated.tokens, roundings if observer is None else ROUNDINGS
        )
        scores = scores_by_rules(expected.on[0]["logits"], generated.tokens, without_forced_end(self._config), rows)
        choice, margin = choices(scores)
        tokens = ExpectedTokens(expected, generated.tokens, choice, margin, scores)
        if observer is not None:
            observer(tokens)
        tokens = replace(tokens, expected=expected.with_roundings(roundings))
        return measure_tokens(self._manifest, self._config, rows, tokens, generated)

    def _expected(
        self, prompts: Sequence[Any], name: str, adapter: Adapter | None, tokens: np.ndarray, roundings: int
    ) -> Expected:
        """Returns R and T of the logits from which the tokens were chosen."""
        inputs = self._forward_inputs(prompts, tokens)
        reread_at = self._manifest.reread_at
        exact = SeparateRows(self._exact.case, inputs, reread_at)
        targets = [
            SeparateRows(partial(self._target.case, rounding=rounding), inputs, reread_at)
            for rounding in range(roundings)
        ]
        if adapter is None:
            return Expected(name, (self._of_new(exact.off()), [self._of_new(target.off()) for target in targets]))
        on = self._of_new(exact.on(name)), [self._of_new(target.on(adapter)) for target in targets]
        off = self._of_new(exact.off(name)), [self._of_new(target.off(adapter)) for target in targets]
        return Expected(name, on, off)

    @property
    def _tokens_before_new(self) -> list[int]:
        """Number of tokens in each row before the first new one. For an encoder-decoder: in the decoder's text."""
        if self._manifest.encoder is not None:
            return [len(self._config.begin)] * len(self._lengths)
        return self._lengths

    def _forward_inputs(self, prompts: Sequence[Any], tokens: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the inputs of one forward over the prompts and all new tokens but the last.

        They are padded on the right; the runtime pads prompts on the left.
        """
        inputs = whole_model_inputs(self._manifest)
        made: dict[str, np.ndarray]
        if self._manifest.encoder is None:
            made = _pad([[*p, *new[:-1]] for p, new in zip(prompts, tokens.tolist(), strict=True)])
        else:
            made = {} if "input_features" in inputs else _pad(prompts)
            if "input_features" in inputs:
                made["input_features"] = np.stack(prompts)
            begin = np.tile(np.array(self._config.begin, np.int64), (len(tokens), 1))
            made["decoder_input_ids"] = np.concatenate([begin, tokens[:, :-1]], axis=1)
        return {name: value for name, value in made.items() if name in inputs}

    def _of_new(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the logits [rows, new, vocabulary] from which the new tokens were chosen, as the only output."""
        starts = [before - 1 for before in self._tokens_before_new]
        rows = zip(outputs["logits"], starts, strict=True)
        return {"logits": np.stack([row[start : start + self._new] for row, start in rows])}


def greedy_case_runners(
    manifest: Manifest, exact: Float64Reference, target: Reference, runner: BundleRunner, limits: TextLimits
) -> list[GreedyCaseRunner]:
    """Returns a runner for short prompts and, for a decoder without an encoder, one for each border beyond them."""
    runners = [GreedyCaseRunner(manifest, exact, target, runner, limits)]
    for border in () if manifest.encoder is not None else limits.checked_borders:
        can_cross = border < limits.longest_generated or border == limits.positions
        if runners[0].tokens_read <= border and can_cross:
            runners.append(GreedyCaseRunner(manifest, exact, target, runner, limits, border))
    return list({item.case: item for item in runners}.values())


def _prompts(manifest: Manifest, limits: TextLimits, lengths: Sequence[int], rng: np.random.Generator) -> list[Any]:
    """Returns random token ids per prompt; for an encoder that reads no text, random features."""
    inputs = whole_model_inputs(manifest)
    if "input_features" in inputs:
        shape = [int(dim) for dim in inputs["input_features"].shape[1:]]
        return [rng.standard_normal(shape).astype(inputs["input_features"].dtype) for _ in lengths]
    ids = [rng.integers(0, limits.vocabulary - 1, length) for length in lengths]
    return [(row + (row >= limits.pad)).tolist() for row in ids]


def _pad(rows: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Returns token ids and mask [rows, tokens], padded on the right."""
    width = max(map(len, rows))
    lengths = np.array([len(row) for row in rows])
    return {
        "input_ids": np.array([[*row, *[0] * (width - len(row))] for row in rows], np.int64),
        "attention_mask": (np.arange(width) < lengths[:, None]).astype(np.int64),
    }
