"""False alarms of parity: right bundles of every architecture, in float32, float16 and int8, that a check refuses.

    python -m benchmarks.false_alarms [MODEL_TYPE ...]

Each bundle holds one random adapter of each kind, swappable, on a tiny model with random weights. One line each:
the architecture, the task, the precision and the outcome. About a minute an architecture.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from adapter_export import check_parity, export_onnx
from adapter_export.architectures.registry import model_types
from adapter_export.errors import AdapterExportError
from adapter_export.models.base_model import load_base
from benchmarks.architectures.page import ADAPTERS, tasks_of
from benchmarks.models import saved
from tests import tiny

PRECISIONS = {"float32": {}, "float16": {"dtype": "fp16"}, "int8": {"quantize": "int8"}}


def main() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for model_type in sys.argv[1:] or model_types():
        with tempfile.TemporaryDirectory(prefix="false-alarms-") as name:
            for precision, outcome in outcomes(Path(name), model_type, tasks_of(model_type)[0]):
                counts[precision, outcome.split(":")[0]] += 1
    for (precision, outcome), count in sorted(counts.items()):
        print(f"{precision}: {outcome}: {count}")


def outcomes(folder: Path, model_type: str, task: str) -> list[tuple[str, str]]:
    """The outcome of a check of each precision."""
    model = folder / "model"
    tiny.save_model(model, model_type, task, tiny.LABELS, {})
    base = load_base(model, task)
    adapters = {
        name: saved(folder / name, tiny.random_adapter(base.info, method, seed, labels=("a", "b"), **options), base)
        for seed, (name, (method, options)) in enumerate(ADAPTERS.items())
    }
    found = []
    for precision, options in PRECISIONS.items():
        bundle = folder / precision
        try:
            export_onnx(model, adapters, bundle, mode="swappable", task=task, **options)
            outcome = str(check_parity(bundle, model, adapters).outcome)
        except AdapterExportError as error:
            outcome = f"refused: {error}"
        found.append((precision, outcome))
        print(f"{model_type}, {task}, {precision}: {outcome}", flush=True)
    return found


if __name__ == "__main__":
    main()
