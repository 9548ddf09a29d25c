"""Reads what a bundle's files say about generating: first tokens, end tokens and rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapter_export.reading.files import present
from adapter_export.reading.json_files import optional_json, read_json
from adapter_export.runtime.generation.rules import GenerationRules, read_rules, token_ids
from adapter_export.runtime.generation.unread import unread, unread_of_draws


@dataclass(frozen=True)
class GenerationConfig:
    """What a bundle's files say about generating.

    Attributes:
        eos: Token ids that end a row.
        pad: Token for padding. It is masked, so any token is correct.
        begin: Tokens that the output of an encoder-decoder begins with; none for other models.
        rules: How tokens are chosen.
        max_new_tokens: Largest number of new tokens; None if the file does not say.
        unread: Fields that would change the tokens and are not supported.
        unread_of_draws: Such fields that matter only if tokens are drawn.
    """

    eos: tuple[int, ...] = ()
    pad: int = 0
    begin: tuple[int, ...] = ()
    rules: GenerationRules = field(default_factory=GenerationRules)
    max_new_tokens: int | None = None
    unread: tuple[str, ...] = ()
    unread_of_draws: tuple[str, ...] = ()


def read_generation_config(bundle: str | Path) -> GenerationConfig:
    """Reads generation_config.json or, in a folder without one, config.json, like transformers.

    If generation_config.json has no padding token, or no start token of an encoder-decoder, that of config.json is
    used.

    Args:
        bundle: Folder of the bundle.

    Raises:
        InputError: A field has a wrong value. The message names the file and the field.
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

    begin: tuple[int, ...] = ()
    if model.get("is_encoder_decoder") is True:
        begin = (ids("decoder_start_token_id", both) or ids("bos_token_id", both))[:1]
    new = token_ids(file, "max_new_tokens", values.get("max_new_tokens"))
    return GenerationConfig(
        eos=ids("eos_token_id", values),
        pad=next(iter(ids("pad_token_id", both)), 0),
        begin=begin,
        rules=read_rules(file, values),
        max_new_tokens=new[0] if new and new[0] > 0 else None,
        unread=unread(values),
        unread_of_draws=unread_of_draws(values),
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that are not null."""
    return {name: value for name, value in values.items() if value is not None}
