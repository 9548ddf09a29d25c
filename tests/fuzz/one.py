"""Fuzz one target, in this process, which ends with it: see `__main__`."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

# Ours, and what ours is made of where that is Python too. They are instrumented as they are imported, so first of all.
with atheris.instrument_imports(include=["adapter_export", "pickletools", "zipfile"]):
    from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
MEMORY_MB = 2048
MAX_BYTES = 8192


def fuzz(name: str, seconds: str, case_seconds: str, kept: str, failed: str) -> None:
    """Run the target until it fails or the time is over. kept: folder of what is interesting; failed: of what fails."""
    target = TARGETS[name]

    def feed(data: bytes) -> None:
        target.feed(data)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        return target.mutate(data, most, random.Random(seed), atheris.Mutate)

    arguments = [
        name, f"-max_total_time={seconds}", f"-timeout={case_seconds}", f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={MAX_BYTES}", f"-artifact_prefix={failed}/{name}-", "-print_final_stats=1",
        kept, str(CORPUS / name),
    ]  # fmt: skip
    atheris.Setup(arguments, feed, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(*sys.argv[1:])
