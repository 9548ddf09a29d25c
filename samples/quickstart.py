"""Two adapters trained, exported into one bundle, and swapped in one ONNX Runtime session: the Python API in a minute.

.venv/bin/python -m samples.quickstart
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import adapter_export
from samples.assets import minilm

TEXTS = {
    "mood": [
        ("what a lovely day", "happy"),
        ("I enjoyed every minute of it", "happy"),
        ("this is wonderful news", "happy"),
        ("the best meal I ever had", "happy"),
        ("I am so sad about this", "unhappy"),
        ("a terrible and boring film", "unhappy"),
        ("they ruined my whole week", "unhappy"),
        ("the worst service ever", "unhappy"),
    ],
    "topic": [
        ("the team won the final match", "sport"),
        ("she scored twice before half time", "sport"),
        ("stir the soup and add some salt", "food"),
        ("bake the bread for forty minutes", "food"),
        ("the telescope saw a distant galaxy", "science"),
        ("the enzyme speeds up the reaction", "science"),
    ],
}


def main(folder: Path) -> dict[str, list[str]]:
    """Work in `folder`; returns the answers of each adapter."""
    adapters = {}
    for name, method in (("mood", "ia3"), ("topic", "bottleneck")):
        data = folder / f"{name}.csv"
        with data.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *TEXTS[name]])
        adapter_export.train(
            minilm(), method, "text-classification", data, folder / name, max_steps=40, batch_size=len(TEXTS[name])
        )
        adapters[name] = folder / name

    bundle = folder / "bundle"
    adapter_export.export_onnx(minilm(), adapters, bundle, mode="swappable")

    # From here on no torch and no transformers: this is what runs in production.
    questions = ["what a wonderful goal in the last minute", "the soup was terrible"]
    inputs = adapter_export.TextEncoder(bundle, adapter_export.read_manifest(bundle)).encode(questions).inputs
    answers = {}
    with adapter_export.AdapterSession(bundle) as session:
        for name in session.adapters:
            shares = adapter_export.probabilities(session.run(inputs, adapter=name)["logits"])
            labels = session.labels(name) or ()
            answers[name] = [labels[row.argmax()] for row in shares]
            for question, row in zip(questions, shares, strict=True):
                print(f"{name}: {question!r} is {labels[row.argmax()]} ({row.max():.2f})")
    return answers


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
