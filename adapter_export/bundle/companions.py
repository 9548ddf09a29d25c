"""Files beside a model's weights that a runtime needs to prepare inputs."""

from __future__ import annotations

from pathlib import Path

from adapter_export.reading.files import present, read_bytes

# The tokenizer is not copied but written as transformers loads it.
_MAX_BYTES = 64 << 20
_COMPANIONS = ("preprocessor_config.json", "generation_config.json")


def copy_companions(source: Path, target: Path) -> None:
    """Copy preprocessor and generation files as they are; those that `target` has already stay."""
    for name in _COMPANIONS:
        if present(source / name) and not (target / name).exists():
            (target / name).write_bytes(read_bytes(source / name, _MAX_BYTES))
