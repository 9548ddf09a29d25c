"""Generating: the runtime's own loop, greedy, against PyTorch that reads each row's tokens alone, in one forward, or in
two where a text is read again on the way.

    a token is clear where R's two largest logits are more than twice max|O - R| apart: there O must choose as R does
Both are taken from the very logits that the tokens were chosen from, which are judged by the law too, after the rules
of the bundle's generation_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from adapter_export.bundle.manifest import ENCODER, Manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.export.samples import SEQUENCE
from adapter_export.parity.bundle_runner import BundleRunner, attempt
from adapter_export.parity.cases import PRIME, Case, TextLimits
from adapter_export.parity.float64_reference import Float64Reference
from adapter_export.parity.measure import Measurement, OutputArrays, OutputSet, Tokens, measure
from adapter_export.parity.reference import Reference
from adapter_export.parity.report import NO_ADAPTER
from adapter_export.parity.separate_rows import SeparateRows
from adapter_export.parity.whole_model import whole_model_inputs, whole_model_outputs
from adapter_export.runtime.generation.config import GenerationConfig
from adapter_export.runtime.generation.processors import Row, processed, processors_for

# Tokens written behind each prompt, where the model has room for as many and a prompt.
NEW = 16
# Prompts of unequal lengths, one of a single token; the last is no longer than others.
_LENGTHS = (SEQUENCE, 1, PRIME, 5)
# Of prompts whose texts cross a border: how many tokens before it they end, of some that begin beyond it.
_BEFORE = (NEW // 2, -1, 1)


@dataclass(frozen=True)
class GreedyCase(Case):
    """`batch` prompts of unequal lengths up to `length`, and `new` tokens written behind each."""

    new: int = 0

    @property
    def name(self) -> str:
        return f"{self.batch} x {self.length} + {self.new} greedy"


class GreedyCaseRunner:
    """A batch of prompts, written on with every adapter, and without any.

    exact: R in float64, by witnesses and by us. target: PyTorch at the graph's dtype (T). runner: ONNX Runtime (O).
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
        """border: one that the texts are to cross, or to end at where it is the last position."""
        self._manifest, self._exact, self._target, self._runner = manifest, exact, target, runner
        self._limits = limits
        self._config = runner.generation_config
        allowed = limits.judged if border is None else border + NEW
        taken = min(allowed, limits.writable, self._config.max_positions or allowed)
        self._new = min(NEW, max(1, taken // 2))
        # The last token is chosen, and never read.
        longest = max(1, taken - self._new + (border is not None))
        wanted = _LENGTHS if border is None else [border - before for before in _BEFORE]
        self._lengths = [max(1, min(length, longest)) for length in wanted]
        self.case = GreedyCase(len(self._lengths), max(self._written_before), new=self._new)

    @property
    def reach(self) -> int:
        """Tokens of the longest text that is read."""
        return max(self._lengths) + self._new - 1

    def run(self, adapters: Mapping[str, Adapter], seed: int, roundings: int = 1) -> dict[tuple[str, str], Measurement]:
        """Measurements by adapter and output, as those of `CaseRunner`. seed: of the prompts."""
        prompts = _prompts(self._manifest, self._limits, self._lengths, np.random.default_rng(seed))
        given: dict[str, Adapter | None] = {NO_ADAPTER: None} if self._runner.has_off_state else {}
        return {
            (name, "logits"): self._measure(prompts, name, adapter, roundings)
            for name, adapter in {**given, **adapters}.items()
        }

    def _measure(self, prompts: Sequence[Any], name: str, adapter: Adapter | None, roundings: int) -> Measurement:
        written = attempt(self._runner.generate, prompts, None if adapter is None else name, self._new)
        if isinstance(written, str):
            return Measurement(fails=(f"did not run: {written}",))
        inputs = self._read(prompts, written.tokens)
        border = self._manifest.reread_at
        exact = SeparateRows(self._exact.case, inputs, border)
        targets = [
            SeparateRows(partial(self._target.case, rounding=rounding), inputs, border) for rounding in range(roundings)
        ]
        if adapter is None:
            on, off = self._outputs(exact.off(), [target.off() for target in targets], written.logits), None
        else:
            on = self._outputs(exact.on(name), [target.on(adapter) for target in targets], written.logits)
            off = self._outputs(exact.off(name), [target.off(adapter) for target in targets], None)
        dtype = whole_model_outputs(self._manifest)["logits"].dtype
        found = measure(OutputSet(on, off, None, dtype, classes=self._manifest.quantize != "none"))
        if found.on is None:
            return found
        tokens, stray = judge_tokens(on, written.tokens, _endless(self._config), self._begun(prompts))
        fails = (f"{stray} of {tokens.count} tokens are not the largest of their logits",) if stray else ()
        return replace(found, tokens=tokens, fails=fails)

    def _begun(self, prompts: Sequence[Any]) -> list[Row]:
        """Each prompt as the runtime's rules see it."""
        if ENCODER not in self._manifest.graphs:
            return [Row(prompt, prompt, (), self._new) for prompt in prompts]
        text = "input_features" not in whole_model_inputs(self._manifest)
        return [Row(self._config.begin, prompt if text else None, (), self._new) for prompt in prompts]

    @property
    def _written_before(self) -> list[int]:
        """Tokens of each row before the first new one."""
        if ENCODER in self._manifest.graphs:
            return [len(self._config.begin)] * len(self._lengths)
        return self._lengths

    def _read(self, prompts: Sequence[Any], tokens: np.ndarray) -> dict[str, np.ndarray]:
        """Inputs of one forward over prompts and new tokens but the last: padded on the right, unlike the runtime's."""
        inputs = whole_model_inputs(self._manifest)
        made: dict[str, np.ndarray]
        if ENCODER not in self._manifest.graphs:
            made = _padded([[*p, *new[:-1]] for p, new in zip(prompts, tokens.tolist(), strict=True)])
        else:
            made = {} if "input_features" in inputs else _padded(prompts)
            if "input_features" in inputs:
                made["input_features"] = np.stack(prompts)
            begin = np.tile(np.array(self._config.begin, np.int64), (len(tokens), 1))
            made["decoder_input_ids"] = np.concatenate([begin, tokens[:, :-1]], axis=1)
        return {name: value for name, value in made.items() if name in inputs}

    def _outputs(
        self,
        exact: Mapping[str, np.ndarray],
        targets: Sequence[Mapping[str, np.ndarray]],
        actual: np.ndarray | None,
    ) -> OutputArrays:
        """Of each row the logits that its new tokens are chosen from, [rows, new, n]."""

        def chosen_from(logits: np.ndarray) -> np.ndarray:
            starts = [before - 1 for before in self._written_before]
            return np.stack([row[start : start + self._new] for row, start in zip(logits, starts, strict=True)])

        return OutputArrays(
            chosen_from(exact["logits"]), tuple(chosen_from(target["logits"]) for target in targets), actual
        )


def greedy_case_runners(
    manifest: Manifest, exact: Float64Reference, target: Reference, runner: BundleRunner, limits: TextLimits
) -> list[GreedyCaseRunner]:
    """One of short prompts, and one for each border of a decoder alone that those do not cross."""
    found = [GreedyCaseRunner(manifest, exact, target, runner, limits)]
    for border in () if ENCODER in manifest.graphs else limits.crossed:
        if found[0].reach <= border and (border < limits.writable or border == limits.positions):
            found.append(GreedyCaseRunner(manifest, exact, target, runner, limits, border))
    return list({item.case: item for item in found}.values())


def _endless(config: GenerationConfig) -> GenerationConfig:
    """As it is for a caller who ignores ends: none is forced."""
    return replace(config, rules=replace(config.rules, forced_eos_token_id=()))


def judge_tokens(
    outputs: OutputArrays, tokens: np.ndarray, config: GenerationConfig, rows: Sequence[Row]
) -> tuple[Tokens, int]:
    """How many tokens [rows, new] are clear, and agree; and how many are not the largest of O's logits.

    Both sides are changed by the bundle's own rules first, each after the tokens that were written before it.
    """
    assert outputs.actual is not None
    processors = [processors_for(config.rules, row) for row in rows]

    def scores(logits: np.ndarray) -> np.ndarray:
        return np.array(
            [
                [processed(own, [*row.written, *new[:step]], logits[i, step]) for step in range(len(new))]
                for i, (row, own, new) in enumerate(zip(rows, processors, tokens.tolist(), strict=True))
            ],
            np.float64,
        )

    expected, found = scores(outputs.reference), scores(outputs.actual)
    both = np.isfinite(expected) & np.isfinite(found)
    error = float(np.abs(np.where(both, found, 0) - np.where(both, expected, 0)).max())
    second, first = np.moveaxis(np.partition(expected, -2, axis=-1)[..., -2:], -1, 0)
    clear = first - second > 2 * error
    agreed = clear & (expected.argmax(-1) == tokens)
    stray = int((found.argmax(-1) != tokens).sum())
    return Tokens(tokens.size, int(clear.sum()), int(agreed.sum())), stray


def _prompts(manifest: Manifest, limits: TextLimits, lengths: Sequence[int], rng: np.random.Generator) -> list[Any]:
    """Random tokens a prompt; of an encoder that reads no text, random features."""
    inputs = whole_model_inputs(manifest)
    if "input_features" in inputs:
        shape = [int(dim) for dim in inputs["input_features"].shape[1:]]
        return [rng.standard_normal(shape).astype(inputs["input_features"].dtype) for _ in lengths]
    ids = [rng.integers(0, limits.vocabulary - 1, length) for length in lengths]
    return [(row + (row >= limits.pad)).tolist() for row in ids]


def _padded(rows: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    width = max(map(len, rows))
    lengths = np.array([len(row) for row in rows])
    return {
        "input_ids": np.array([[*row, *[0] * (width - len(row))] for row in rows], np.int64),
        "attention_mask": (np.arange(width) < lengths[:, None]).astype(np.int64),
    }
