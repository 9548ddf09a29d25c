"""Generating: the runtime's own loop, greedy, against PyTorch that reads the same tokens in one forward.

    a token is clear where R's two largest logits are more than twice max|O - R| apart: there O must choose as R does
Both are taken from the very logits that the tokens were chosen from, which are judged by the law too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adapter_export.bundle.manifest import ENCODER, Manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.export.samples import SEQUENCE
from adapter_export.parity.cases import PRIME, Case, TextLimits
from adapter_export.parity.exact import Exact
from adapter_export.parity.measure import Evidence, Measure, Outputs, Tokens, measure
from adapter_export.parity.reference import Reference
from adapter_export.parity.report import NO_ADAPTER
from adapter_export.parity.runner import Runner, attempt
from adapter_export.parity.whole import whole_inputs, whole_outputs
from adapter_export.runtime.generation.config import GenerationConfig

# Tokens written behind each prompt, where the model has room for as many and a prompt.
NEW = 16
# Prompts of unequal lengths, one of a single token; the last is no longer than others.
_LENGTHS = (SEQUENCE, 1, PRIME, 5)


@dataclass(frozen=True)
class GreedyCase(Case):
    """`batch` prompts of unequal lengths up to `length`, and `new` tokens written behind each."""

    new: int = 0

    @property
    def name(self) -> str:
        return f"{self.batch} x {self.length} + {self.new} greedy"


class GreedyTrial:
    """A batch of prompts, written on with every adapter, and without any.

    exact: R in float64, by witnesses and by us. target: PyTorch at the graph's dtype (T). runner: ONNX Runtime (O).
    """

    def __init__(
        self,
        manifest: Manifest,
        exact: Exact,
        target: Reference,
        runner: Runner,
        limits: TextLimits,
    ) -> None:
        self._manifest, self._exact, self._target, self._runner = manifest, exact, target, runner
        self._limits = limits
        self._config = runner.generation_config
        taken = limits.judged if self._config.max_positions is None else min(limits.judged, self._config.max_positions)
        self._new = min(NEW, max(1, taken // 2))
        longest = max(1, taken - self._new)
        self._lengths = [min(length, longest) for length in _LENGTHS]
        self.case = GreedyCase(len(_LENGTHS), max(self._written_before), new=self._new)

    def run(self, adapters: Mapping[str, Adapter], seed: int, roundings: int = 1) -> dict[tuple[str, str], Measure]:
        """Measures by adapter and output, as those of `Trial`. seed: of the prompts."""
        prompts = _prompts(self._manifest, self._limits, self._lengths, np.random.default_rng(seed))
        given: dict[str, Adapter | None] = {NO_ADAPTER: None} if self._runner.has_off_state else {}
        return {
            (name, "logits"): self._measure(prompts, name, adapter, roundings)
            for name, adapter in {**given, **adapters}.items()
        }

    def _measure(self, prompts: Sequence[Any], name: str, adapter: Adapter | None, roundings: int) -> Measure:
        written = attempt(self._runner.generate, prompts, None if adapter is None else name, self._new)
        if isinstance(written, str):
            return Measure(fails=(f"did not run: {written}",))
        inputs = self._read(prompts, written.tokens)
        exact = self._exact.case(inputs)
        targets = [self._target.case(inputs, rounding) for rounding in range(roundings)]
        if adapter is None:
            on, off = self._outputs(exact.off(), [target.off() for target in targets], written.logits), None
        else:
            on = self._outputs(exact.on(name), [target.on(adapter) for target in targets], written.logits)
            off = self._outputs(exact.off(name), [target.off(adapter) for target in targets], None)
        dtype = whole_outputs(self._manifest)["logits"].dtype
        found = measure(Evidence(on, off, None, dtype, classes=self._manifest.quantize != "none"))
        if found.on is None:
            return found
        tokens, stray = judge_tokens(on, written.tokens, self._config)
        fails = (f"{stray} of {tokens.count} tokens are not the largest of their logits",) if stray else ()
        return replace(found, tokens=tokens, fails=fails)

    @property
    def _written_before(self) -> list[int]:
        """Tokens of each row before the first new one."""
        if ENCODER in self._manifest.graphs:
            return [len(self._config.begin)] * len(self._lengths)
        return self._lengths

    def _read(self, prompts: Sequence[Any], tokens: np.ndarray) -> dict[str, np.ndarray]:
        """Inputs of one forward over prompts and new tokens but the last: padded on the right, unlike the runtime's."""
        inputs = whole_inputs(self._manifest)
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
    ) -> Outputs:
        """Of each row the logits that its new tokens are chosen from, [rows, new, n]."""

        def chosen_from(logits: np.ndarray) -> np.ndarray:
            starts = [before - 1 for before in self._written_before]
            return np.stack([row[start : start + self._new] for row, start in zip(logits, starts, strict=True)])

        return Outputs(chosen_from(exact["logits"]), tuple(chosen_from(target["logits"]) for target in targets), actual)


def judge_tokens(outputs: Outputs, tokens: np.ndarray, config: GenerationConfig) -> tuple[Tokens, int]:
    """How many tokens [rows, new] are clear, and agree; and how many are not the largest of O's logits.

    Tokens that the bundle's configuration never allows count on neither side.
    """
    assert outputs.actual is not None
    error = float(np.abs(outputs.actual - outputs.reference).max())
    expected, found = (_allowed(logits, config) for logits in (outputs.reference, outputs.actual))
    second, first = np.moveaxis(np.partition(expected, -2, axis=-1)[..., -2:], -1, 0)
    clear = first - second > 2 * error
    agreed = clear & (expected.argmax(-1) == tokens)
    stray = int((found.argmax(-1) != tokens).sum())
    return Tokens(tokens.size, int(clear.sum()), int(agreed.sum())), stray


def _allowed(logits: np.ndarray, config: GenerationConfig) -> np.ndarray:
    result = logits.astype(np.float64)
    result[..., list(config.suppressed)] = -np.inf
    result[:, 0, list(config.suppressed_first)] = -np.inf
    return result


def _prompts(manifest: Manifest, limits: TextLimits, lengths: Sequence[int], rng: np.random.Generator) -> list[Any]:
    """Random tokens a prompt; of an encoder that reads no text, random features."""
    inputs = whole_inputs(manifest)
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
