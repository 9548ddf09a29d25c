"""Facts about architectures that hold for every model of a `model_type`: one record each, read by all of the package.

A model_type without an entry has the defaults. Modules ask `facts(model_type)`; none of them names a model_type itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ArchitectureFacts:
    """What differs from most architectures.

    speech: writes what it hears; transformers loads it with AutoModelForSpeechSeq2Seq, not AutoModelForSeq2SeqLM.
    relative: its positions are distances alone; the limit that old configs have is none of the model's.
    pooler: the linear layer of the base model, with tanh after it, whose output a classifier of whole texts reads.
    rereads: where its rotary factors change with the length of a text (LongRoPE), transformers' `generate` reads the
        text again, once it is longer than the short factors are for.
    mask_table: its causal mask is cut from a table of all its positions.
    """

    speech: bool = False
    relative: bool = False
    pooler: str = ""
    rereads: bool = False
    mask_table: bool = False


_FACTS: Mapping[str, ArchitectureFacts] = {
    **dict.fromkeys(("t5", "mt5", "umt5"), ArchitectureFacts(relative=True)),
    "albert": ArchitectureFacts(pooler="pooler"),
    "bert": ArchitectureFacts(pooler="pooler.dense"),
    **dict.fromkeys(("phi3", "phimoe", "phi4_multimodal"), ArchitectureFacts(rereads=True)),
    "gpt_neo": ArchitectureFacts(mask_table=True),
    "whisper": ArchitectureFacts(speech=True),
}
_DEFAULTS = ArchitectureFacts()


def facts(model_type: str) -> ArchitectureFacts:
    """The facts about `model_type`, as in a model's config."""
    return _FACTS.get(model_type, _DEFAULTS)
