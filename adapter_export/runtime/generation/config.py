"""What a bundle's own files say about generating: where it ends, and how far it can go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.checkpoints.files import read_json
from adapter_export.errors import InputError

_POSITIONS = ("max_position_embeddings", "n_positions", "max_target_positions")
# Their positions are relative: old configs have a limit that the model does not.
_UNLIMITED = ("t5", "mt5", "umt5")


@dataclass(frozen=True)
class GenerationConfig:
    """eos: token ids that end a row. pad: fills a batch; it is masked, so any token does. max_positions: the decoder's
    longest sequence, None without a limit. decoder_start: what an encoder-decoder begins with, None for others.
    """

    eos: tuple[int, ...]
    pad: int
    max_positions: int | None
    decoder_start: int | None


def read_generation_config(bundle: Path) -> GenerationConfig:
    """From generation_config.json, else config.json. Raises InputError that names the file and the field."""
    model = _read(bundle / "config.json")
    inner = model.get("text_config")
    layers = [(bundle / "generation_config.json", _read(bundle / "generation_config.json"))]
    layers += [(bundle / "config.json", found) for found in (model, inner) if isinstance(found, dict)]
    pad = _ids(layers, "pad_token_id")
    start = _ids(layers, "decoder_start_token_id") or (_ids(layers, "bos_token_id") if _is_pair(model) else ())
    limits = [] if model.get("model_type") in _UNLIMITED else [_ids(layers[1:], name) for name in _POSITIONS]
    known = [limit[0] for limit in limits if limit and limit[0] > 0]
    return GenerationConfig(
        eos=_ids(layers, "eos_token_id"),
        pad=pad[0] if pad else 0,
        max_positions=known[0] if known else None,
        decoder_start=start[0] if start else None,
    )


def _is_pair(config: Mapping[str, Any]) -> bool:
    return config.get("is_encoder_decoder") is True


def _ids(layers: list[tuple[Path, dict[str, Any]]], name: str) -> tuple[int, ...]:
    """The first value that is there; ids may be one or a list. Negative ids, a habit of old configs, mean none."""
    for path, values in layers:
        if (value := values.get(name)) is None:
            continue
        found = value if isinstance(value, list) else [value]
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in found):
            raise InputError(f"{path}: field {name!r}: expected a whole number or a list of them, found {value!r}")
        return tuple(token for token in found if token >= 0)
    return ()


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
