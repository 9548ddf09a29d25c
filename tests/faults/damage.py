"""Files of a bundle with a byte changed, cut or longer: refused when they are opened, or without any effect."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np

from adapter_export.errors import InputError
from tests.faults.child import start, wait
from tests.faults.journal import Journal
from tests.faults.subject import Subject

TIMES = 600
_FILES = ("adapters/new.onnx_adapter", "model.onnx", "manifest.json", "tokenizer.json", "config.json")


def damaged_files(journal: Journal, subject: Subject, work: Path, seed: int, times: int = TIMES) -> None:
    for trial in range(times):
        rng = random.Random(f"{seed} damage {trial}")
        name = rng.choice(_FILES)

        def make(name: str = name, rng: random.Random = rng) -> str | None:
            bundle = work / "bundle"
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(subject.folder / "swappable", bundle)
            data = bytearray((bundle / name).read_bytes())
            match rng.choice(("flip", "cut", "longer")):
                case "flip":
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                case "cut":
                    del data[rng.randrange(len(data)) :]
                case "longer":
                    data += rng.randbytes(rng.randrange(1, 100))
            (bundle / name).write_bytes(data)
            log = work.with_suffix(".log")
            ended = wait(start(log, lambda: _opened(subject, bundle)), log)
            return None if ended.code == 0 else f"exit {ended.code}: {ended.stderr[-200:]}"

        journal.trial("damaged files of a bundle", f"{name} {seed} {trial}", make)


def _opened(subject: Subject, bundle: Path) -> int:
    """0 where the bundle is refused, or gives the numbers of the undamaged one."""
    from adapter_export import AdapterSession

    inputs = {name: np.ones((2, 5), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    with AdapterSession(subject.folder / "swappable") as session:
        expected = session.run(inputs, "new")["logits"]
    try:
        with AdapterSession(bundle) as session:
            found = session.run(inputs, "new")["logits"]
    except InputError:
        return 0
    return int(found.shape != expected.shape or not np.array_equal(found, expected))
