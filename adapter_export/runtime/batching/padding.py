"""Combines rows of different lengths into one batch, and separates the outputs of the batch into rows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np

from adapter_export.bundle.graphs import NUM_LABELS
from adapter_export.bundle.manifest import Manifest, TensorInfo
from adapter_export.errors import InputError
from adapter_export.reading.json_files import optional_json
from adapter_export.runtime.inputs import check_inputs, shared_end

_BATCH, _SEQUENCE = "batch", "sequence"
_IDS, _MASK = "input_ids", "attention_mask"
# Inputs whose padding is masked by attention_mask.
_TEXT_INPUTS = frozenset({_IDS, _MASK, "token_type_ids"})


class Padding:
    """Forms batches from rows for the graph of a bundle.

    A row has the inputs of the graph without their batch axis: `input_ids` [sequence], `pixel_values` [3, H, W].
    Texts are padded on the right: input_ids with the model's padding token, attention_mask and token_type_ids with 0.
    Positions of tokens are then the same as in the text alone, no token attends to masked tokens, and the tokens of a
    decoder do not attend to later ones. All other inputs are stacked unchanged. Rows of different lengths do not share
    a batch if the graph has no attention_mask or other inputs along `sequence`, or the model has no padding token.

    Classifiers with an encoder and a decoder (BART, T5) look for the last end token of each text among the end tokens
    of the complete batch. If the rows have different numbers of end tokens, a row gets the token of another row.
    Therefore such rows do not share a batch either.
    """

    def __init__(self, bundle: str | Path, manifest: Manifest) -> None:
        """Reads what the model needs.

        Args:
            bundle: Folder of the bundle.
            manifest: Its manifest.

        Raises:
            InputError: The rows of the graph depend on each other, or the graph has a cache.
        """
        bundle = Path(bundle)
        inputs = manifest.graphs[manifest.model].given
        _check_rows(bundle, {**inputs, **manifest.outputs})
        self._inputs = {name: TensorInfo(info.dtype, info.shape[1:]) for name, info in inputs.items()}
        self._tensors = frozenset(manifest.tensors)
        config = optional_json(bundle / "config.json")
        pad = pad_token(bundle, config)
        self._fill = {_IDS: pad or 0}
        along = {name for name, info in self._inputs.items() if _SEQUENCE in info.shape}
        known = {dim for info in inputs.values() for dim in info.shape} | {NUM_LABELS}
        fits = all(isinstance(dim, int) or dim in known for info in manifest.outputs.values() for dim in info.shape)
        self._end = shared_end(manifest, config)
        pads = fits and pad not in (None, self._end) and {_IDS, _MASK} <= along <= _TEXT_INPUTS
        self._padded = frozenset(along if pads else ())
        self._cut = {
            name: tuple(dim == _SEQUENCE and pads for dim in info.shape[1:]) for name, info in manifest.outputs.items()
        }

    def check(self, row: Mapping[str, np.ndarray]) -> None:
        """Checks that the row has the inputs of the graph, each with at least one element.

        Raises:
            InputError: It does not.
        """
        check_inputs(row, self._inputs, self._tensors)
        for name, value in row.items():
            if value.size == 0:
                raise InputError(f"input {name!r}: expected at least one element, found shape {list(value.shape)}")

    def length(self, row: Mapping[str, np.ndarray]) -> int:
        """Returns the number of tokens of a row; 1 if rows of this graph are not padded."""
        return next((len(row[name]) for name in self._padded), 1)

    def group(self, row: Mapping[str, np.ndarray]) -> Hashable:
        """Returns a key that is equal for rows that can share a batch."""
        ends = None if self._end is None else int(np.count_nonzero(row[_IDS] == self._end))
        return ends, tuple(row[name].shape for name in self._inputs if name not in self._padded)

    def stack(self, rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Returns one batch of all rows. They must be of one group."""
        return {
            name: self._pad(name, [row[name] for row in rows])
            if name in self._padded
            else np.stack([row[name] for row in rows])
            for name in self._inputs
        }

    def cut(self, outputs: Mapping[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
        """Returns a row's outputs without the parts computed for padding.

        They are copies, because a view would keep the complete batch in memory.

        Args:
            outputs: Outputs of the row by name, without the batch axis.
            length: Number of tokens of the row.
        """
        ends = (slice(None), slice(length))
        return {name: value[tuple(ends[cut] for cut in self._cut[name])].copy() for name, value in outputs.items()}

    def _pad(self, name: str, values: Sequence[np.ndarray]) -> np.ndarray:
        batch = np.full((len(values), max(map(len, values))), self._fill.get(name, 0), values[0].dtype)
        for row, value in zip(batch, values, strict=True):
            row[: len(value)] = value
        return batch


_MAX_TOKENS = 1 << 31


def pad_token(bundle: Path, config: Mapping[str, object]) -> int | None:
    """Returns the model's padding token; None without one.

    The token of config.json comes first, because graphs compare with it. The second choice is the tokenizer's token.

    Args:
        bundle: Folder of the bundle.
        config: The content of its config.json.
    """
    text = config.get("text_config")
    own = text if isinstance(text, dict) else config
    found, known = own.get("pad_token_id"), own.get("vocab_size")
    if type(found) is int and 0 <= found < (known if isinstance(known, int) else _MAX_TOKENS):
        return found
    token = optional_json(bundle / "tokenizer_config.json").get("pad_token")
    content = token.get("content") if isinstance(token, dict) else token
    added = optional_json(bundle / "tokenizer.json").get("added_tokens")
    entries = [entry for entry in added if isinstance(entry, dict)] if isinstance(added, list) else []
    ids = [entry.get("id") for entry in entries if content is not None and entry.get("content") == content]
    return next((number for number in ids if isinstance(number, int)), None)


def _check_rows(bundle: Path, values: Mapping[str, TensorInfo]) -> None:
    for name, info in values.items():
        if "past_sequence" in info.shape:
            raise InputError(
                f"bundle {bundle}: its graph steps with a cache ({name!r}): `generate` takes batches itself, and an "
                "export with --no-cache scores"
            )
        if info.shape[:1] != (_BATCH,) or _BATCH in info.shape[1:]:
            raise InputError(
                f"bundle {bundle}: {name!r} has dims {list(info.shape)}: expected rows of a batch, each by itself"
            )
