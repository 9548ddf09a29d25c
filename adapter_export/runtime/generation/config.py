"""What a bundle's own files say about generating: where it begins and ends, by which rules, and how far it can go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapter_export.architectures.positions import FIELDS
from adapter_export.architectures.registry import facts
from adapter_export.checkpoints.files import optional_json, read_json
from adapter_export.reading.files import present
from adapter_export.runtime.generation.rules import GenerationRules, read_rules, token_ids
from adapter_export.runtime.generation.unread import unread, unread_of_draws


@dataclass(frozen=True)
class GenerationConfig:
    """eos: token ids that end a row. pad: fills a batch; it is masked, so any token does. max_positions: the decoder's
    longest sequence, None without a limit. begin: tokens an encoder-decoder begins with, none for others. rules: how
    tokens are chosen. max_new_tokens: how many, None where the file does not say. unread: fields that would change what
    is written, and are not read; unread_of_draws: those that count where tokens are drawn.
    """

    eos: tuple[int, ...] = ()
    pad: int = 0
    max_positions: int | None = None
    begin: tuple[int, ...] = ()
    rules: GenerationRules = field(default_factory=GenerationRules)
    max_new_tokens: int | None = None
    unread: tuple[str, ...] = ()
    unread_of_draws: tuple[str, ...] = ()


def read_generation_config(bundle: str | Path) -> GenerationConfig:
    """From generation_config.json or, in a folder without one, config.json, as transformers does.

    The padding token, which is masked, and an encoder-decoder's start come from config.json too where the other file
    has none. Raises InputError that names the file and the field.
    """
    bundle = Path(bundle)
    model_file, file = bundle / "config.json", bundle / "generation_config.json"
    model = optional_json(model_file)
    nested = model.get("text_config")
    text = {**nested, **_given(model)} if isinstance(nested, dict) else model
    if present(file):
        values = read_json(file)
    else:
        file, values = model_file, text
    both = {**text, **_given(values)}

    def ids(name: str, found: Mapping[str, Any]) -> tuple[int, ...]:
        return token_ids(file if values.get(name) is not None else model_file, name, found.get(name))

    relative = facts(str(model.get("model_type"))).positions.relative
    limits = [] if relative else [ids(name, text) for name in FIELDS]
    known = [limit[0] for limit in limits if limit and limit[0] > 0]
    begin: tuple[int, ...] = ()
    if model.get("is_encoder_decoder") is True:
        begin = (ids("decoder_start_token_id", both) or ids("bos_token_id", both))[:1]
    new = token_ids(file, "max_new_tokens", values.get("max_new_tokens"))
    return GenerationConfig(
        eos=ids("eos_token_id", values),
        pad=next(iter(ids("pad_token_id", both)), 0),
        max_positions=known[0] if known else None,
        begin=begin,
        rules=read_rules(file, values),
        max_new_tokens=new[0] if new and new[0] > 0 else None,
        unread=unread(values),
        unread_of_draws=unread_of_draws(values),
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
