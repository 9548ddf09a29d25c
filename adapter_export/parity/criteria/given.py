"""Compares outputs with those that a caller gives, where there is no T to show what the dtype can reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.parity.cases import kept_positions
from adapter_export.parity.criteria.judge import THRESHOLDS, rms
from adapter_export.parity.criteria.measure import OutputArrays, OutputSet, measure
from adapter_export.parity.criteria.quantized import LIMITS
from adapter_export.parity.whole_model import whole_model_outputs


def differences(
    manifest: Manifest, inputs: Mapping[str, np.ndarray], expected: Mapping[str, Any], actual: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """Yields what is wrong with the outputs of a run, one line each.

    max|actual - expected| / rms(expected) must be at most the ceiling of the graph's dtype, over positions without
    padding. For weights in 8 or 4 bits the mean must be at most the largest cost of the bits.

    Args:
        manifest: The manifest of the bundle.
        inputs: Arrays by name.
        expected: Outputs of PyTorch by name; not necessarily all of them.
        actual: Outputs of the bundle by name.
    """
    outputs = whole_model_outputs(manifest)
    if not expected:
        yield "expected outputs by name, found none"
    for name, value in expected.items():
        if name not in actual or name not in outputs:
            yield f"{name}: not an output (they are: {', '.join(actual)})"
            continue
        reference = np.asarray(value, np.float64)
        arrays = OutputArrays(reference, (reference,), actual[name])
        measurement = measure(OutputSet(arrays, None, kept_positions(inputs, reference), outputs[name].dtype))
        for reason in (*measurement.fails, *measurement.doubts):
            yield f"{name}: {reason}"
        if measurement.on is None:
            continue
        error, quantized = measurement.on.actual.relative(rms([measurement.on])), manifest.quantize.used
        found = error.mean if quantized else error.max
        limit = LIMITS[manifest.quantize].error if quantized else THRESHOLDS[manifest.dtype].ceiling
        if not found <= limit:
            yield f"{name}: the {'mean' if quantized else 'largest'} error is {found:.2e} rms, above {limit:g}"
