"""Copies files of a model's folder that a runtime needs besides the graphs."""

from __future__ import annotations

from pathlib import Path

from adapter_export.reading.files import present, read_bytes

# The tokenizer is not among them: it is written in the form in which transformers loads it.
_MAX_BYTES = 64 << 20
_COMPANIONS = ("preprocessor_config.json", "generation_config.json")


def copy_companions(source: Path, target: Path) -> None:
    """Copies the preprocessor's and the generation config unchanged. Files that exist in `target` are kept."""
    for name in _COMPANIONS:
        if present(source / name) and not (target / name).exists():
            (target / name).write_bytes(read_bytes(source / name, _MAX_BYTES))
