"""Fields of generation_config.json that are not read here, although transformers would obey them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Field -> whether a value of it changes the tokens.
_GREEDY: Mapping[str, Callable[[Any], bool]] = {
    "num_beams": lambda value: value != 1,
    "num_beam_groups": lambda value: value != 1,
    "penalty_alpha": lambda value: value != 0,
    "dola_layers": bool,
    "guidance_scale": lambda value: value != 1,
    "watermarking_config": bool,
    "constraints": bool,
    "force_words_ids": bool,
    "forced_decoder_ids": bool,
    "token_healing": lambda value: value is True,
    "stop_strings": bool,
    "max_time": lambda value: True,
}
# Such fields that matter only if tokens are drawn.
_DRAWN: Mapping[str, Callable[[Any], bool]] = {
    "temperature": lambda value: value != 1,
    "top_k": lambda value: value not in (0, 50),
    "top_p": lambda value: value != 1,
    "min_p": lambda value: value != 0,
    "top_h": lambda value: True,
    "typical_p": lambda value: value != 1,
    "epsilon_cutoff": lambda value: value != 0,
    "eta_cutoff": lambda value: value != 0,
}


def unread(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the fields that would change the tokens, even if decoding is greedy.

    `do_sample`, with the fields for drawing, is among them, because the file asks for drawing.

    Args:
        values: The content of the file.
    """
    fields = list(_changing(values, _GREEDY))
    return (*fields, *(("do_sample", *unread_of_draws(values)) if values.get("do_sample") is True else ()))


def unread_of_draws(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the fields that would change the tokens if they are drawn."""
    return tuple(_changing(values, _DRAWN))


def _changing(values: Mapping[str, Any], fields: Mapping[str, Callable[[Any], bool]]) -> Iterator[str]:
    return (name for name, changes in fields.items() if values.get(name) is not None and changes(values[name]))
