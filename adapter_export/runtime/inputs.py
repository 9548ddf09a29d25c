"""Checks the inputs of a caller. ONNX Runtime broadcasts wrong shapes, or its error names a node inside the graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from adapter_export.bundle.manifest import Manifest, TensorInfo
from adapter_export.errors import InputError

_TOKENS = ("input_ids", "decoder_input_ids")


def check_inputs(
    inputs: Mapping[str, np.ndarray], expected: Mapping[str, TensorInfo], adapter_tensors: Collection[str] = ()
) -> None:
    """Checks names, dtypes, ranks and fixed dims of inputs, and that named dims are equal in all inputs.

    Args:
        inputs: The inputs of the caller by name.
        expected: The inputs of the graph by name.
        adapter_tensors: Names of adapter tensors. They are refused, because adapters are chosen by `adapter=`.

    Raises:
        InputError: An input is unknown, missing or does not fit.
    """
    if fed := [name for name in inputs if name in adapter_tensors]:
        raise InputError(f"input {fed[0]!r}: is a tensor of an adapter; choose an adapter by its name instead")
    if unknown := [name for name in inputs if name not in expected]:
        raise InputError(f"input {unknown[0]!r}: not an input of this graph; expected {', '.join(expected)}")
    if missing := [name for name in expected if name not in inputs]:
        raise InputError(f"input {missing[0]!r} is missing; expected {', '.join(expected)}")
    sizes: dict[str, tuple[int, str]] = {}
    for name, info in expected.items():
        _check(name, inputs[name], info, sizes)


def check_tokens(inputs: Mapping[str, np.ndarray]) -> None:
    """Checks that no token is negative: the graph would read it from the end of its table.

    Args:
        inputs: The inputs of the graph by name.

    Raises:
        InputError: A token is negative. Those beyond the table are refused by ONNX Runtime.
    """
    for name in _TOKENS:
        if name in inputs and inputs[name].size and (least := inputs[name].min()) < 0:
            raise InputError(f"input {name!r}: expected tokens from 0, found {least}")


def check_positions(inputs: Mapping[str, np.ndarray], positions: int | None) -> None:
    """Checks that texts are not longer than the model's table of positions. A GPU reads beyond it without an error.

    Args:
        inputs: The inputs of the graph by name.
        positions: Number of positions in the table; 0 or None for a model without such a table, which has no limit.

    Raises:
        InputError: A text is too long, or an element of position_ids is outside of the table.
    """
    if not positions:
        return
    if (counted := inputs.get("position_ids")) is not None:
        if counted.size and (counted.max() >= positions or counted.min() < 0):
            raise InputError(
                f"input 'position_ids': expected from 0 to below {positions}, the positions of this model, found "
                f"{counted.min()} to {counted.max()}"
            )
        return
    for name in _TOKENS:
        if name in inputs and inputs[name].shape[1] > positions:
            raise InputError(
                f"input {name!r}: {inputs[name].shape[1]} tokens do not fit in the {positions} positions of this model"
            )


def shared_end(manifest: Manifest, config: Mapping[str, object]) -> int | None:
    """Returns the end token that must occur equally often in all rows of a batch; None if there is no such rule.

    A classifier with an encoder and a decoder (BART, T5) reads each text at its last end token, and looks for these
    among the end tokens of the complete batch. If one row has more of them, other rows get the wrong token. In PyTorch
    such a batch is an error.

    Args:
        manifest: The manifest of the bundle.
        config: The content of the bundle's config.json.
    """
    found = config.get("eos_token_id")
    shared = config.get("is_encoder_decoder") is True and manifest.task == "text-classification"
    return found if shared and isinstance(found, int) else None


def check_ends(ids: np.ndarray, end: int) -> None:
    """Raises InputError unless the token `end` occurs equally often in all rows of ids [batch, tokens]."""
    counts = (ids == end).sum(axis=1)
    if (counts != counts[0]).any():
        raise InputError(
            f"input 'input_ids': rows with {counts.min()} and with {counts.max()} end tokens ({end}); this model needs "
            "equal numbers in all rows of a batch"
        )


def _check(name: str, value: np.ndarray, info: TensorInfo, sizes: dict[str, tuple[int, str]]) -> None:
    """Checks one input. `sizes` collects the sizes of named dims, each with the name of the first input that has it."""
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
