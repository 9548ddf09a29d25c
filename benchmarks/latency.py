"""Run time of swappable graphs against the base model's own graph, and swapping against making a session."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.cli.table import print_table
from adapter_export.export.export import export_onnx
from adapter_export.export.lower import lower
from adapter_export.export.saving import save_graph
from adapter_export.export.trace import trace
from adapter_export.models.base_model import load_base
from adapter_export.runtime.session import AdapterSession
from benchmarks.models import random_adapter, saved
from benchmarks.timing import interleaved, ratio, wall
from samples.assets import minilm

ROUNDS = 60
BATCH, SEQUENCE = 8, 64
# k = 48 of d = 384.
REDUCTION_FACTOR = 8


def session(path: Path) -> Any:
    """A session as a user would make it, but with threads that do not spin: spinning disturbs the other sessions."""
    import onnxruntime as ort

    return ort.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])


def session_options() -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def with_adapter(path: Path) -> Any:
    """Run options with the adapter of that file active, and the adapter, which must outlive them."""
    import onnxruntime as ort

    adapter = ort.LoraAdapter()
    adapter.Load(str(path))
    options = ort.RunOptions()
    options.add_active_adapter(adapter)
    return options, adapter


def main() -> None:
    base = load_base(minilm(), "text-classification", labels=("a", "b"))
    ids = np.random.default_rng(1).integers(1000, 20000, (BATCH, SEQUENCE))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.process_time()
        bare = lower(trace(base, {}), {})
        bare_seconds = time.process_time() - started
        (folder / "base").mkdir()
        save_graph(bare, folder / "base" / "model.onnx")
        adapters = {
            "ia3": random_adapter(base, "ia3"),
            "houlsby k=48": random_adapter(base, "bottleneck", reduction_factor=REDUCTION_FACTOR),
            "pfeiffer k=48": random_adapter(
                base, "bottleneck", reduction_factor=REDUCTION_FACTOR, placement="pfeiffer"
            ),
        }
        sessions = {
            "base": session(folder / "base" / "model.onnx"),
            "base again": session(folder / "base" / "model.onnx"),
        }
        runs: dict[str, Any] = {name: lambda s=s: s.run(None, inputs) for name, s in sessions.items()}
        alive, rows = [], []
        export_seconds = {}
        for title, adapter in adapters.items():
            op_name = title.replace(" ", "_").replace("=", "")
            checkpoint = saved(folder / "checkpoints" / op_name, adapter, base)
            started = time.process_time()
            export_onnx(minilm(), {"a": checkpoint}, folder / op_name, mode="swappable")
            export_seconds[title] = time.process_time() - started
            s = session(folder / op_name / "model.onnx")
            file = folder / op_name / "adapters" / "a.onnx_adapter"
            options, adapter_object = with_adapter(file)
            alive.append(adapter_object)
            runs[f"{title}, active"] = lambda s=s, o=options: s.run(None, inputs, o)
            runs[f"{title}, none active"] = lambda s=s: s.run(None, inputs)
            swap, create = (
                wall(lambda f=file: with_adapter(f), 50),
                wall(lambda p=folder / op_name: session(p / "model.onnx")),
            )
            # Checked when the session was made, as by default: loading then reads the bytes.
            ours = AdapterSession(folder / op_name, options=session_options())
            load, make = (
                wall(lambda s=ours: s.load("a"), 50),
                wall(lambda p=folder / op_name: AdapterSession(p, options=session_options())),
            )
            rows.append(
                (title, f"{file.stat().st_size / 1e3:,.0f}", f"1/{create / swap:,.0f}", f"1/{make / load:,.0f}")
            )
        seconds = interleaved(runs, ROUNDS)
    print_table(
        f"CPU time per run against the base model's graph ({BATCH} x {SEQUENCE} tokens, {ROUNDS} interleaved rounds)",
        ("graph", "ratio"),
        [("base again (A/A control)", f"{ratio(seconds, 'base again', 'base'):.3f}")]
        + [(name, f"{ratio(seconds, name, 'base'):.3f}") for name in runs if not name.startswith("base")],
    )
    print_table(
        "Load and activate an adapter against creating the session",
        ("adapter", "file kB", "LoraAdapter", "AdapterSession"),
        rows,
    )
    print_table(
        "CPU time of the whole export command against tracing the bare base model",
        ("adapter", "ratio"),
        [(title, f"{value / bare_seconds:.2f}") for title, value in export_seconds.items()],
    )


if __name__ == "__main__":
    main()
