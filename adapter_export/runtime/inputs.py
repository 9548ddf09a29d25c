"""Checking what a caller feeds: ONNX Runtime broadcasts, or answers with the name of some node inside the graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from adapter_export.bundle.manifest import Manifest, TensorInfo
from adapter_export.errors import InputError


def check_inputs(
    inputs: Mapping[str, np.ndarray], expected: Mapping[str, TensorInfo], adapter_tensors: Collection[str] = ()
) -> None:
    """Raise InputError unless the inputs are those expected: names, dtypes, ranks, fixed dims, and named dims that
    agree with each other. Tensors of an adapter are refused: they are chosen by `adapter=`."""
    if fed := [name for name in inputs if name in adapter_tensors]:
        raise InputError(f"input {fed[0]!r}: is a tensor of an adapter; choose an adapter by its name instead")
    if unknown := [name for name in inputs if name not in expected]:
        raise InputError(f"input {unknown[0]!r}: not an input of this graph; expected {', '.join(expected)}")
    if missing := [name for name in expected if name not in inputs]:
        raise InputError(f"input {missing[0]!r} is missing; expected {', '.join(expected)}")
    sizes: dict[str, tuple[int, str]] = {}
    for name, info in expected.items():
        _check(name, inputs[name], info, sizes)


def check_positions(inputs: Mapping[str, np.ndarray], positions: int | None) -> None:
    """Raise InputError for texts that the model's table of positions has no room for: a GPU reads beyond it without a
    word. positions: room of the table; 0 or None where there is none, and the model reads on."""
    if not positions:
        return
    if (counted := inputs.get("position_ids")) is not None:
        if counted.size and (counted.max() >= positions or counted.min() < 0):
            raise InputError(
                f"input 'position_ids': expected from 0 to below {positions}, the positions of this model, found "
                f"{counted.min()} to {counted.max()}"
            )
        return
    for name in ("input_ids", "decoder_input_ids"):
        if name in inputs and inputs[name].shape[1] > positions:
            raise InputError(
                f"input {name!r}: {inputs[name].shape[1]} tokens do not fit in the {positions} positions of this model"
            )


def shared_end(manifest: Manifest, config: Mapping[str, object]) -> int | None:
    """The end token that rows of a batch must have equally often; None where they need not.

    A classifier with an encoder and a decoder (BART, T5) reads each text at its last end token, and finds these among
    all of the batch: it gives rows each other's where one has more of them. In PyTorch such a batch is an error.
    """
    found = config.get("eos_token_id")
    shared = config.get("is_encoder_decoder") is True and manifest.task == "text-classification"
    return found if shared and isinstance(found, int) else None


def check_ends(ids: np.ndarray, end: int) -> None:
    """Raise InputError unless all rows of ids [B, T] have the token `end` equally often."""
    counts = (ids == end).sum(axis=1)
    if (counts != counts[0]).any():
        raise InputError(
            f"input 'input_ids': rows with {counts.min()} and with {counts.max()} end tokens ({end}); this model needs "
            "as many in each row of a batch"
        )


def _check(name: str, value: np.ndarray, info: TensorInfo, sizes: dict[str, tuple[int, str]]) -> None:
    if not isinstance(value, np.ndarray):
        raise InputError(f"input {name!r}: expected a numpy array, found {type(value).__name__}")
    if value.dtype.name != info.dtype or not value.dtype.isnative:
        raise InputError(f"input {name!r}: expected {info.dtype}, found {value.dtype}")
    if value.ndim != len(info.shape):
        raise InputError(f"input {name!r}: expected {len(info.shape)} dims {list(info.shape)}, found {value.shape}")
    for size, dim in zip(value.shape, info.shape, strict=True):
        if isinstance(dim, int):
            if size != dim:
                raise InputError(f"input {name!r}: expected shape {list(info.shape)}, found {list(value.shape)}")
            continue
        known, other = sizes.setdefault(dim, (size, name))
        if size != known:
            raise InputError(f"input {name!r}: {dim} is {size}, but {known} in input {other!r}")
