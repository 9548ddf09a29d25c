"""Language models within models that also read images. Adapters are placed in them by the module names of a
checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from adapter_export.architectures.record import Architecture

_LANGUAGE_MODEL = Architecture(
    renames=(
        ("language_model.model", "language_model"),
        ("language_model.lm_head", "lm_head"),
        ("vision_tower.vision_model", "vision_tower"),
    )
)

RECORDS: Mapping[str, Architecture] = {
    **dict.fromkeys(
        (
            "aria", "aya_vision", "got_ocr2", "internvl", "llava", "llava_next", "llava_next_video", "llava_onevision",
            "mistral3", "paligemma", "vipllava",
        ),
        _LANGUAGE_MODEL,
    ),
    "gemma3": replace(_LANGUAGE_MODEL, parts=("gemma3_text",)),
}  # fmt: skip
