"""Checks of a bundle as a whole, as opposed to single cases: one function and one line in the report for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.export.samples import SEQUENCE
from adapter_export.parity.bundle_runner import BundleRunner, attempt
from adapter_export.parity.cases import GreedyCase, ParityCase
from adapter_export.parity.criteria.judge import MAX_RETRY_CEILINGS, THRESHOLDS, Verdict, worst
from adapter_export.parity.criteria.quantized import LIMITS
from adapter_export.parity.report import ParityCheck, ParityResult
from adapter_export.reading.files import present
from adapter_export.reading.hashes import sha256

# Largest difference, in units of rms, between a row in a batch and the same row alone, at any precision. A row that
# depends on other rows differs by more.
_MAX_ROW_ERROR = 0.3


def check_files(manifest: Manifest, folder: Path) -> ParityCheck:
    """Checks that every file of the manifest exists and has the sha256 of the manifest."""
    for name, expected in manifest.files.items():
        path = folder / name
        if not present(path):
            return ParityCheck("files", Verdict.FAIL, f"{path}: named by the manifest, but missing")
        if (found := sha256(path, folder)) != expected:
            return ParityCheck("files", Verdict.FAIL, f"{path}: sha256 {found[:12]}..., expected {expected[:12]}...")
    for info in manifest.adapters:
        if info.file is not None and manifest.files.get(info.file) != info.sha256:
            return ParityCheck(
                "files", Verdict.FAIL, f"{folder / info.file}: the manifest has two digests for it, or one only"
            )
    return ParityCheck("files", Verdict.PASS, f"{len(manifest.files)} files as the manifest has them")


def check_labels(
    manifest: Manifest, adapters: Mapping[str, Adapter], witnessed: Mapping[str, tuple[str, ...]]
) -> ParityCheck:
    """Checks that class names, their order and the kind of problem are those of the checkpoints.

    Args:
        manifest: The manifest of the bundle.
        adapters: The adapters as our own code reads them, by name.
        witnessed: Class names by adapter, as the witness reads them, for adapters whose classes have names.
    """
    own = {name: adapter for name, adapter in adapters.items() if adapter.num_labels is not None}
    problems = {name: adapter.problem_type for name, adapter in own.items()}
    return check_stated_labels(
        manifest, {name: adapter.label_names for name, adapter in own.items()}, witnessed, problems
    )


def check_stated_labels(
    manifest: Manifest,
    own: Mapping[str, tuple[str, ...]],
    witnessed: Mapping[str, tuple[str, ...]],
    problems: Mapping[str, str | None],
) -> ParityCheck:
    """Checks class names, their order and the kind of problem of the adapters that have a task head.

    Args:
        manifest: The manifest of the bundle.
        own: Class names by adapter, as our own code reads them.
        witnessed: Class names by adapter, as the witness reads them, for adapters whose classes have names.
        problems: Kind of problem by adapter, as our own code reads it.
    """
    for source, names in (("the checkpoint", own), ("its witness", witnessed)):
        for name, expected in names.items():
            labels = manifest.adapter(name).labels
            if labels != expected:
                found = ", ".join(labels or ()) or "none"
                detail = f"adapter {name}: expected {', '.join(expected)} by {source}, found {found}"
                return ParityCheck("labels", Verdict.FAIL, detail)
    for name, expected_type in problems.items():
        if (actual_type := manifest.adapter(name).problem_type) != expected_type:
            detail = f"adapter {name}: expected {expected_type} by the checkpoint, found {actual_type}"
            return ParityCheck("labels", Verdict.FAIL, detail)
    return ParityCheck("labels", Verdict.PASS, "as in the checkpoints")


def repeat_case(cases: Sequence[ParityCase]) -> ParityCase:
    """Returns a case with as many rows as possible, of the traced length or a similar one."""
    return min(cases, key=lambda case: (-case.batch, abs(case.length - SEQUENCE), not case.padded))


def check_repeats(runner: BundleRunner, inputs: Mapping[str, np.ndarray], names: Sequence[str]) -> ParityCheck:
    """Checks that adapter A, then adapter B, then no adapter, then A again gives the outputs of A bit for bit.

    A is every adapter of the bundle in turn, B the next one.

    Args:
        runner: Runs the bundle.
        inputs: Arrays by name.
        names: All adapters of the bundle.
    """
    for index, name in enumerate(names):
        runs = [attempt(runner.on, inputs, name)]
        if runner.has_off_state:
            runs.append(attempt(runner.on, inputs, names[(index + 1) % len(names)]))
            runs.append(attempt(runner.off, inputs, None))
        runs.append(attempt(runner.on, inputs, name))
        first, last = runs[0], runs[-1]
        if isinstance(first, str) or isinstance(last, str):
            return ParityCheck(
                "swap", Verdict.FAIL, f"adapter {name}: did not run: {first if isinstance(first, str) else last}"
            )
        if any(first[output].tobytes() != last[output].tobytes() for output in first):
            return ParityCheck("swap", Verdict.FAIL, f"adapter {name}: other bits after another adapter ran")
    return ParityCheck("swap", Verdict.PASS, "each adapter gives the same bits after another one and after none")


def check_rows(
    manifest: Manifest, runner: BundleRunner, inputs: Mapping[str, np.ndarray], names: Sequence[str]
) -> ParityCheck:
    """Checks for each adapter that no row of a batch depends on other rows.

    Each row of the batch must give the same outputs as the same row alone, without padding.

    Args:
        manifest: The manifest of the bundle.
        runner: Runs the bundle.
        inputs: Arrays by name, padded on the right or not at all.
        names: All adapters of the bundle.
    """
    if {"input_ids", "pixel_values"} <= set(inputs):
        return ParityCheck(
            "rows", Verdict.PASS, "not compared: texts and images of a batch are compared with each other"
        )
    # The scales of activations in 8 bits are computed over the whole batch, so there the mean error is compared, with
    # the limit for the cost of 8 bits. Otherwise the limit allows for sensitive inputs, whose rounding error alone may
    # exceed a ceiling. The influence of another row is larger.
    limit = min(MAX_RETRY_CEILINGS * THRESHOLDS[manifest.dtype].ceiling, _MAX_ROW_ERROR)
    if manifest.quantize.used:
        limit = LIMITS[manifest.quantize].error
    mask = inputs.get("attention_mask")
    largest = 0.0
    for name in names:
        batch = attempt(runner.on, inputs, name)
        for row in range(len(next(iter(inputs.values())))):
            kept = slice(None) if mask is None else mask[row].astype(bool)
            row_inputs = {key: value[row : row + 1] for key, value in inputs.items()}
            if mask is not None:
                row_inputs = {k: v[:, kept] if inputs[k].shape == mask.shape else v for k, v in row_inputs.items()}
            single = attempt(runner.on, row_inputs, name)
            if isinstance(batch, str) or isinstance(single, str):
                reason = batch if isinstance(batch, str) else single
                return ParityCheck("rows", Verdict.FAIL, f"adapter {name}: did not run: {reason}")
            for output, value in batch.items():
                if row >= len(value):
                    return ParityCheck("rows", Verdict.FAIL, f"adapter {name}: {output} has {len(value)} rows")
                own = value[row]
                if mask is not None and own.ndim == 2 and len(own) == mask.shape[1]:
                    own = own[kept]
                distance = _relative_distance(own, single[output][0], mean=manifest.quantize.used)
                if not distance <= limit:
                    detail = f"adapter {name}: row {row} of a batch is {distance:.1e} from the same row alone, {output}"
                    return ParityCheck("rows", Verdict.FAIL, detail)
                largest = max(largest, distance)
    return ParityCheck("rows", Verdict.PASS, f"each row of a batch is as alone, to {largest:.0e}")


def _relative_distance(actual: np.ndarray, expected: np.ndarray, *, mean: bool) -> float:
    """Returns the largest or mean difference of two arrays, relative to the rms of `expected`.

    Infinity for different shapes, and for infinite or NaN values in only one array. Values that are not finite in both
    are ignored: the cases check them.
    """
    if actual.shape != expected.shape or not (np.isfinite(actual) == np.isfinite(expected)).all():
        return math.inf
    actual, expected = actual[np.isfinite(actual)], expected[np.isfinite(expected)]
    if not actual.size:
        return 0.0
    difference = np.abs(actual.astype(np.float64) - expected)
    scale = max(float(np.sqrt(np.square(expected.astype(np.float64)).mean())), 1e-30)
    return float((difference.mean() if mean else difference.max()) / scale)


def check_greedy(results: Sequence[ParityResult]) -> ParityCheck:
    """Summarizes the cases of generated text, with every adapter and without any, which were judged one by one."""
    judgements = [item.judgement for item in results if isinstance(item.case, GreedyCase)]
    tokens = [judgement.tokens for judgement in judgements if judgement.tokens is not None]
    clear, agreed = sum(item.clear for item in tokens), sum(item.agreed for item in tokens)
    detail = f"{sum(item.count for item in tokens)} tokens, {clear} with a clear margin, {agreed} of them PyTorch's"
    return ParityCheck("greedy", worst(judgement.verdict for judgement in judgements), detail)
