"""Checks of a bundle as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.files import sha256
from adapter_export.export.samples import SEQUENCE
from adapter_export.parity.bundle_runner import BundleRunner, attempt
from adapter_export.parity.cases import Case
from adapter_export.parity.greedy import GreedyCase
from adapter_export.parity.judge import LIMITS, MAX_RETRY_CEILINGS, Verdict, worst
from adapter_export.parity.quantized import ERROR
from adapter_export.parity.report import Check, Result
from adapter_export.reading.files import present

# Largest difference, in units of rms, between a row in a batch and the same row alone, at any precision. A row that
# depends on other rows differs by more.
_MAX_ROW_ERROR = 0.3


def check_files(manifest: Manifest, folder: Path) -> Check:
    """Every file the manifest names is there, with the bytes it names."""
    for name, expected in manifest.files.items():
        path = folder / name
        if not present(path):
            return Check("files", Verdict.FAIL, f"{path}: named by the manifest, but missing")
        if (found := sha256(path, folder)) != expected:
            return Check("files", Verdict.FAIL, f"{path}: sha256 {found[:12]}..., expected {expected[:12]}...")
    for info in manifest.adapters:
        if info.file is not None and manifest.files.get(info.file) != info.sha256:
            return Check(
                "files", Verdict.FAIL, f"{folder / info.file}: the manifest has two digests for it, or one only"
            )
    return Check("files", Verdict.PASS, f"{len(manifest.files)} files as the manifest has them")


def check_labels(
    manifest: Manifest, adapters: Mapping[str, Adapter], witnessed: Mapping[str, tuple[str, ...]]
) -> Check:
    """Class names are the checkpoints', in their order: right numbers under wrong names are wrong answers.

    adapters: as we read them. witnessed: names by a witness, of adapters whose classes have been named.
    """
    ours = {name: adapter.label_names for name, adapter in adapters.items() if adapter.num_labels is not None}
    for source, names in (("the checkpoint", ours), ("its witness", witnessed)):
        for name, expected in names.items():
            labels = manifest.adapter(name).labels
            if labels != expected:
                found = ", ".join(labels or ()) or "none"
                detail = f"adapter {name}: expected {', '.join(expected)} by {source}, found {found}"
                return Check("labels", Verdict.FAIL, detail)
    for name in ours:
        meant, told = adapters[name].problem_type, manifest.adapter(name).problem_type
        if told != meant:
            return Check("labels", Verdict.FAIL, f"adapter {name}: expected {meant} by the checkpoint, found {told}")
    return Check("labels", Verdict.PASS, "as in the checkpoints")


def repeat_case(cases: Sequence[Case]) -> Case:
    """A case with several rows, of the traced length or one near it."""
    return min(cases, key=lambda case: (-case.batch, abs(case.length - SEQUENCE), case.padding == "none"))


def check_repeats(runner: BundleRunner, inputs: Mapping[str, np.ndarray], names: Sequence[str]) -> Check:
    """A -> B -> nothing -> A gives A again bit for bit, for every adapter A and the one after it as B."""
    for index, name in enumerate(names):
        runs = [attempt(runner.on, inputs, name)]
        if runner.has_off_state:
            runs.append(attempt(runner.on, inputs, names[(index + 1) % len(names)]))
            runs.append(attempt(runner.off, inputs, None))
        runs.append(attempt(runner.on, inputs, name))
        first, last = runs[0], runs[-1]
        if isinstance(first, str) or isinstance(last, str):
            return Check(
                "swap", Verdict.FAIL, f"adapter {name}: did not run: {first if isinstance(first, str) else last}"
            )
        if any(first[output].tobytes() != last[output].tobytes() for output in first):
            return Check("swap", Verdict.FAIL, f"adapter {name}: other bits after another adapter ran")
    return Check("swap", Verdict.PASS, "each adapter gives the same bits after another one and after none")


def check_rows(
    manifest: Manifest, runner: BundleRunner, inputs: Mapping[str, np.ndarray], names: Sequence[str]
) -> Check:
    """With each adapter every row of a batch gives what it gives alone, without padding: no row depends on its
    neighbours. inputs: padded on the right, if at all."""
    if {"input_ids", "pixel_values"} <= set(inputs):
        return Check("rows", Verdict.PASS, "not compared: texts and images of a batch are compared with each other")
    # The scales of activations in 8 bits are computed over the whole batch, so there the mean error is compared, with
    # the limit for the cost of 8 bits. Otherwise the limit allows for sensitive inputs, whose rounding error alone may
    # exceed a ceiling. The influence of another row is larger.
    limit = min(MAX_RETRY_CEILINGS * LIMITS[manifest.dtype].ceiling, _MAX_ROW_ERROR)
    if manifest.quantize != "none":
        limit = ERROR
    mask = inputs.get("attention_mask")
    farthest = 0.0
    for name in names:
        together = attempt(runner.on, inputs, name)
        for row in range(len(next(iter(inputs.values())))):
            kept = slice(None) if mask is None else mask[row].astype(bool)
            single = {key: value[row : row + 1] for key, value in inputs.items()}
            if mask is not None:
                single = {k: v[:, kept] if inputs[k].shape == mask.shape else v for k, v in single.items()}
            alone = attempt(runner.on, single, name)
            if isinstance(together, str) or isinstance(alone, str):
                reason = together if isinstance(together, str) else alone
                return Check("rows", Verdict.FAIL, f"adapter {name}: did not run: {reason}")
            for output, value in together.items():
                if row >= len(value):
                    return Check("rows", Verdict.FAIL, f"adapter {name}: {output} has {len(value)} rows")
                own = value[row]
                if mask is not None and own.ndim == 2 and len(own) == mask.shape[1]:
                    own = own[kept]
                distance = _apart(own, alone[output][0], mean=manifest.quantize != "none")
                if not distance <= limit:
                    detail = f"adapter {name}: row {row} of a batch is {distance:.1e} from the same row alone, {output}"
                    return Check("rows", Verdict.FAIL, detail)
                farthest = max(farthest, distance)
    return Check("rows", Verdict.PASS, f"each row of a batch is as alone, to {farthest:.0e}")


def _apart(one: np.ndarray, other: np.ndarray, *, mean: bool) -> float:
    if one.shape != other.shape or not (np.isfinite(one) == np.isfinite(other)).all():
        return math.inf
    # What is no number is judged elsewhere.
    one, other = one[np.isfinite(one)], other[np.isfinite(other)]
    if not one.size:
        return 0.0
    difference = np.abs(one.astype(np.float64) - other)
    scale = max(float(np.sqrt(np.square(other.astype(np.float64)).mean())), 1e-30)
    return float((difference.mean() if mean else difference.max()) / scale)


def check_greedy(results: Sequence[Result]) -> Check:
    """What was generated, by every adapter and none, is judged case by case; this tells it in one line."""
    found = [item.judgement for item in results if isinstance(item.case, GreedyCase)]
    tokens = [judgement.tokens for judgement in found if judgement.tokens is not None]
    clear, agreed = sum(item.clear for item in tokens), sum(item.agreed for item in tokens)
    detail = f"{sum(item.count for item in tokens)} tokens, {clear} with a clear margin, {agreed} of them PyTorch's"
    return Check("greedy", worst(judgement.verdict for judgement in found), detail)
