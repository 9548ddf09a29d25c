"""Files beside a model's weights that a runtime needs to prepare inputs."""

from __future__ import annotations

import shutil
from pathlib import Path

_COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "chat_template.jinja",
    "preprocessor_config.json",
    "generation_config.json",
)


def copy_companions(source: Path, target: Path) -> None:
    """Copy tokenizer, preprocessor and generation files as they are; those that `target` has already stay."""
    for name in _COMPANIONS:
        if (source / name).is_file() and not (target / name).exists():
            shutil.copyfile(source / name, target / name)
