"""What a bundle's own files say about generating: where it ends, and how far it can go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.checkpoints.files import read_json
from adapter_export.errors import InputError

# The decoder's own comes first.
_POSITIONS = ("max_target_positions", "max_position_embeddings", "n_positions")
# Their positions are relative: old configs have a limit that the model does not.
_UNLIMITED = ("t5", "mt5", "umt5")


@dataclass(frozen=True)
class GenerationConfig:
    """eos: token ids that end a row. pad: fills a batch; it is masked, so any token does. max_positions: the decoder's
    longest sequence, None without a limit. begin: tokens an encoder-decoder begins with, none for others. suppressed:
    tokens that are never chosen; suppressed_first: nor as the first.
    """

    eos: tuple[int, ...] = ()
    pad: int = 0
    max_positions: int | None = None
    begin: tuple[int, ...] = ()
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()


def read_generation_config(bundle: str | Path) -> GenerationConfig:
    """From generation_config.json, else config.json. Raises InputError that names the file and the field."""
    bundle = Path(bundle)
    model = _read(bundle / "config.json")
    layers = [(bundle / "generation_config.json", _read(bundle / "generation_config.json"))]
    layers += [
        (bundle / "config.json", found) for found in (model, model.get("text_config")) if isinstance(found, dict)
    ]
    limits = [] if model.get("model_type") in _UNLIMITED else [_ids(layers[1:], name) for name in _POSITIONS]
    known = [limit[0] for limit in limits if limit and limit[0] > 0]
    begin: tuple[int, ...] = ()
    if model.get("is_encoder_decoder") is True:
        start = _ids(layers, "decoder_start_token_id") or _ids(layers, "bos_token_id")
        begin = (*start[:1], *_ids(layers, "forced_bos_token_id"))
    return GenerationConfig(
        eos=_ids(layers, "eos_token_id"),
        pad=next(iter(_ids(layers, "pad_token_id")), 0),
        max_positions=known[0] if known else None,
        begin=begin,
        suppressed=_ids(layers, "suppress_tokens"),
        suppressed_first=_ids(layers, "begin_suppress_tokens"),
    )


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
