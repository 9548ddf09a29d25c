"""Writes README.md of a bundle: a model card for the Hugging Face hub, made from the manifest alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from adapter_export.bundle.graphs import ENCODER, is_past
from adapter_export.bundle.manifest import LICENSES, AdapterInfo, Manifest, TensorInfo
from adapter_export.bundle.modes import Mode
from adapter_export.checkpoints.licenses import license_fields
from adapter_export.outputs.files import atomic_file
from adapter_export.outputs.markdown import escaped, front_matter_lines, table
from adapter_export.outputs.ownership import CARD

NOT_STATED = "not stated"
# The license of the whole is nobody's statement, so a card says whose statements it shows.
LICENSE_NOTE = (
    "Licenses of the adapters: in the table above. Each is what the README.md of that part states. adapter-export does "
    "not decide what these licenses allow together."
)
_MODES: Mapping[Mode, str] = {
    Mode.MERGED: "an adapter is folded into the weights of the graph, so every run has it",
    Mode.EMBEDDED: "an adapter is a part of the graph, so every run has it",
    Mode.SWAPPABLE: "the adapters are files of their own; each run has one of them, or none",
    Mode.BANK: "the adapters are files of their own; each row of a batch has one of them, or none",
}
_TEXT_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_MOST_LABELS = 10
_LABEL_LENGTH = 40


def write_card(folder: Path, manifest: Manifest) -> None:
    """Writes README.md of a bundle into `folder`, completely or not at all."""
    atomic_file(folder / CARD, card(manifest).encode())


def card(manifest: Manifest) -> str:
    """Returns the model card of a bundle. The same manifest gives the same text."""
    licenses = license_fields(manifest.base_license, [info.license for info in manifest.adapters])
    methods = sorted({info.method for info in manifest.adapters})
    lines = [
        *front_matter_lines(
            {
                **licenses,
                **({"base_model": manifest.base_name} if manifest.base_name else {}),
                "library_name": "onnxruntime",
                "tags": ["adapter-export", "onnx", *methods],
            }
        ),
        "",
        f"# {escaped(manifest.base.architecture)} for ONNX Runtime",
        "",
        "This folder is a bundle: a base model and its adapters as ONNX graphs, with all files that running it needs. "
        f"Its mode is *{manifest.mode}*: {_MODES[manifest.mode]}.",
        "",
        *table(
            ("", ""),
            [
                ("task", escaped(manifest.task)),
                ("dtype", _precision(manifest)),
                ("base model", f"{escaped(manifest.base.architecture)} ({escaped(manifest.base.model_type)})"),
                ("source of the base model", _source(manifest.base_source)),
                ("sha256 of its weights", escaped(manifest.base.sha256) or "not known"),
                ("ONNX opset", f"{manifest.opset}"),
            ],
        ),
        "",
        "## Adapters",
        "",
        *_adapters(manifest),
        "",
        "## Licenses",
        "",
        f"License of the base model: {escaped(manifest.base_license or NOT_STATED)}. {LICENSE_NOTE}",
        *_license_files(manifest),
        "",
        "## Inputs and outputs",
        "",
        *table(("graph", "", "name", "dtype", "shape"), _boundary(manifest)),
        "",
        "## Run it",
        "",
        "After `pip install adapter-export`, in this folder:",
        "",
        "```python",
        *_code(manifest),
        "```",
        "",
        "## Versions",
        "",
        f"Made by adapter-export {escaped(manifest.project_version)}, in version {manifest.format_version} of the "
        "bundle's format. `manifest.json` lists all files but this one with their sha256. "
        "`adapter-export inspect .` compares them.",
    ]
    return "\n".join(lines) + "\n"


def _precision(manifest: Manifest) -> str:
    quantized = f", matrices of the base model in {manifest.quantize}" if manifest.quantize.used else ""
    fused = f", fused operators for {manifest.fuse}" if manifest.fuse.used else ""
    return f"{manifest.dtype}{quantized}{fused}"


def _source(source: str | None) -> str:
    return escaped(source) if source else "a folder"


def _license(info: AdapterInfo) -> str:
    return escaped(info.license or NOT_STATED)


def _adapters(manifest: Manifest) -> list[str]:
    if not manifest.adapters:
        return ["None."]
    of_file = any(info.sha256 for info in manifest.adapters)
    return [
        *table(
            ("name", "method", "labels", "license", "source", "sha256"),
            [
                (
                    escaped(info.name),
                    escaped(info.method),
                    _labels(info),
                    _license(info),
                    _source(info.source),
                    escaped(info.sha256 or info.source_sha256 or "not known"),
                )
                for info in manifest.adapters
            ],
        ),
        "",
        f"The sha256 is that of {'the file of the adapter in this folder' if of_file else 'its checkpoint'}.",
    ]


def _labels(info: AdapterInfo) -> str:
    labels = info.labels or ()
    more = f", and {len(labels) - _MOST_LABELS:,} more" if len(labels) > _MOST_LABELS else ""
    return ", ".join(escaped(label, _LABEL_LENGTH) for label in labels[:_MOST_LABELS]) + more or "none"


def _license_files(manifest: Manifest) -> list[str]:
    if not any(path.startswith(f"{LICENSES}/") for path in manifest.files):
        return []
    return ["", f"The license files that came with them are in the folder `{LICENSES}`, unchanged."]


def _boundary(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    for file, graph in manifest.graphs.items():
        for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
            for name, info in values.items():
                shape = " x ".join(map(str, info.shape))
                yield f"`{file}`", kind, escaped(name), escaped(info.dtype), escaped(shape)


def _code(manifest: Manifest) -> list[str]:
    """Returns a program that runs the bundle in the current folder."""
    adapter = next((info.name for info in manifest.adapters if not manifest.mode.in_graph), None)
    given = f', adapter="{adapter}"' if adapter else ""
    entry = manifest.graphs[ENCODER] if ENCODER in manifest.graphs else manifest.graphs[manifest.model]
    of_texts = "tokenizer.json" in manifest.files and "input_ids" in entry.given
    if of_texts and any(map(is_past, manifest.inputs)):
        return [
            "from adapter_export import AdapterSession, PromptTexts",
            "",
            'texts = PromptTexts(".")',
            'prompt = texts.encode("the night")',
            'with AdapterSession(".") as session:',
            f"    (row,) = session.generate([prompt]{given}, max_new_tokens=32).completions()",
            "print(texts.completion(prompt, row.tokens))",
        ]
    if of_texts and set(entry.given) <= _TEXT_INPUTS:
        return [
            "from adapter_export import AdapterSession, TextEncoder",
            "",
            'with AdapterSession(".") as session:',
            '    inputs = TextEncoder(".", session.manifest).encode(["what a lovely day"]).inputs',
            f"    print(session.run(inputs{given}))",
        ]
    arrays = ", ".join(f"{name!r}: {_ones(info)}" for name, info in manifest.graphs[manifest.model].given.items())
    return [
        "import numpy as np",
        "from adapter_export import AdapterSession",
        "",
        f"inputs = {{{arrays}}}  # your values",
        'with AdapterSession(".") as session:',
        f"    print(session.run(inputs{given}))",
    ]


def _ones(info: TensorInfo) -> str:
    sizes = [size if isinstance(size, int) else 1 for size in info.shape]
    return f'np.ones({tuple(sizes)}, "{info.dtype}")'
