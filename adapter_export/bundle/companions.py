"""Files beside a model's weights that a runtime needs to prepare inputs."""

from __future__ import annotations

import shutil
from pathlib import Path

# The tokenizer is not copied but written as transformers loads it.
_COMPANIONS = ("preprocessor_config.json", "generation_config.json")


def copy_companions(source: Path, target: Path) -> None:
    """Copy preprocessor and generation files as they are; those that `target` has already stay."""
    for name in _COMPANIONS:
        if (source / name).is_file() and not (target / name).exists():
            shutil.copyfile(source / name, target / name)
