"""`docs/architectures.md`: placement from the tables, and the numbers that were measured. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adapter_export.architectures.record import Role, Stack
from adapter_export.architectures.registry import facts, model_types

_DOCS = Path(__file__).parents[2] / "docs"
PAGE, NUMBERS = _DOCS / "architectures.md", _DOCS / "architectures.json"

# What is measured: name -> method and its settings.
ADAPTERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ia3": ("ia3", {}),
    # A scale of 2, so that a graph that leaves it out is seen.
    "lora": ("lora", {"rank": 4, "alpha": 8.0}),
    **{
        name: ("bottleneck", {"placement": name, "reduction_factor": 4}) for name in ("houlsby", "pfeiffer", "parallel")
    },
}

_TEXT_ENCODERS = ("features", "text-classification")
# The tasks an architecture is measured for; the first is merged too.
_TASKS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("bart", "mbart", "mt5", "t5"), ("seq2seq-lm", "text-classification")),
    **dict.fromkeys(("clip", "dinov2", "vit"), ("features", "image-classification")),
    **dict.fromkeys(("clip_text_model", "clip_vision_model"), ("features",)),
    "whisper": ("seq2seq-lm",),
    **dict.fromkeys(
        ("albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta"),
        _TEXT_ENCODERS,
    ),
}
_DECODER_TASKS = ("causal-lm", "text-classification")

_CROSS_ATTENTION = (
    "IA3 scales the keys and values of cross-attention too, and LoRA changes its queries and values; no bottleneck "
    "follows cross-attention."
)
# What an architecture cannot do, or does in a way of its own.
NOTES: Mapping[str, str] = {
    "albert": "One group of layers is applied again and again, and so are its adapters.",
    "clip": "Images and texts at once; `image-classification` has the vision half alone.",
    "bloom": "The fused projection's vector scales queries too.",
    "dinov2": "The sublayer's output is taken after LayerScale, just before the residual is added. The first row of "
    "sites is the gated feed-forward of the largest model.",
    "falcon": "The fused projection's vector scales queries too. The rows of sites are Falcon-40B, Falcon-RW, and "
    "Falcon-7B and 11B: where attention and feed-forward stand side by side, both read the layer's input.",
    "gemma2": "The sublayer's output is taken after its second norm, just before the residual is added.",
    "gemma3_text": "As Gemma 2.",
    "gpt2": "The fused projection's vector scales queries too.",
    "gpt_neox": "The fused projection's vector scales queries too. As published, attention and feed-forward stand side "
    "by side and read the same input; with `use_parallel_residual=False` they follow each other.",
    "gptj": "Attention and feed-forward stand side by side and read the same input.",
    "mixtral": "IA3 scales keys and values only: since transformers 5 all experts are two three-dimensional "
    "parameters, not linear layers, so their inputs are nowhere to be scaled, in PEFT neither. A checkpoint with "
    "vectors on `experts.N.w2` is refused by name.",
    "modernbert": "The fused projection's vector scales queries too.",
    "opt": "The second row of sites is OPT-350M, the only one that is post-norm.",
    "phi": "Attention and feed-forward stand side by side and read the same input.",
    "phi3": "The fused projection's vector scales queries too.",
    **dict.fromkeys(("bart", "mbart", "whisper"), _CROSS_ATTENTION),
    **dict.fromkeys(
        ("mt5", "t5"),
        f"{_CROSS_ATTENTION} Scores are not divided by the root of the width, so with LoRA on queries rounding shows: "
        "PyTorch in float32 is itself 2e-05 (T5) and 3e-05 (mT5) from float64.",
    ),
}

_INTRODUCTION = """\
# Architectures

Written by `python -m benchmarks.architectures`; do not edit. A test holds it against the architectures' records
(`adapter_export/architectures/families`). Any other architecture works with `--target REGEX`, or with a checkpoint that
names its modules: so do models for images whose stages differ in width (ConvNeXt, ResNet, SegFormer, PoolFormer,
MobileViT, RegNet), with IA3 on linear layers and convolutions, and models whose modules transformers 5 renamed (BEiT,
DeiT, I-JEPA, Swin, SegFormer, Gemma 3 with images), with the names of either version.

Measured on tiny models with every weight random (2 layers, 32 features), one trace a task, in plain ONNX Runtime on the
CPU, at 1 x 1, 1 x 5 and 2 x 17 tokens, the last padded. A number is the largest error max|x - R| / rms(R) over all
outputs, tasks and shapes, R being PyTorch in float64 with the adapter unmerged. *sites*: of the tiny model. *trains*:
gradients reach every tensor of the adapter, and nothing else. *merges*: folded into the weights, in float64. *merged*,
*embedded*, *swappable*: exported in that mode, in float32 (merged: for the first task). LoRA has rank 4 and a scale of
2. A bottleneck is not linear, so no weights compute the same: it has no merged form. Decoders are exported as scoring
graphs here (`--no-cache`), encoder-decoders as one graph of both stacks.
"""

_PLACES = """\
`N` is a layer's number; the other columns are modules below the layer. Houlsby's two adapters stand after attention and
after the feed-forward, and a parallel one where the second does; it reads x, which is what the module in its column
takes in. In a fused projection LoRA changes queries, keys and values.

| architecture | layer | IA3, outputs | IA3, inputs | LoRA | attention | feed-forward | x | Pfeiffer |
|---|---|---|---|---|---|---|---|---|"""


def tasks_of(model_type: str) -> tuple[str, ...]:
    """The tasks that an architecture is measured for."""
    return _TASKS.get(model_type, _DECODER_TASKS)


def render(numbers: Mapping[str, Any]) -> str:
    """The whole page; what was not measured says so."""
    found = {str(sorted(entry["versions"].items())): entry["versions"] for entry in numbers.values()}
    versions = " or ".join(", ".join(f"{name} {number}" for name, number in entry.items()) for entry in found.values())
    lines = [
        _INTRODUCTION,
        f"Versions: {versions or 'nothing measured yet'}.\n",
        "## What works\n",
        "| architecture | adapter | sites | trains | merges | merged | embedded | swappable | tasks |",
        "|---|---|--:|---|--:|--:|--:|--:|---|",
    ]
    lines += [
        f"| {model_type} | {adapter} | {' | '.join(_row(model_type, adapter, numbers.get(model_type)))} |"
        for model_type in model_types()
        for adapter in ADAPTERS
    ]
    failures = [line for name, entry in sorted(numbers.items()) for line in failed(name, entry)]
    lines += ["", "## What does not work\n", *(failures or ["Nothing that is named above."])]
    lines += ["", "## Notes\n", *(f"- **{name}**: {NOTES[name]}" for name in model_types() if name in NOTES)]
    lines += ["", "## Where adapters stand\n"]
    lines += [_PLACES]
    lines += [f"| {' | '.join(cells)} |" for model_type in model_types() for cells in placement_rows(model_type)]
    return "\n".join(lines) + "\n"


def placement_rows(model_type: str) -> Iterator[tuple[str, ...]]:
    """The sites of every stack of an architecture, as its record gives them; equal rows once."""
    yield from dict.fromkeys(_placement_row(model_type, stack) for stack in facts(model_type).stacks)


def _placement_row(model_type: str, stack: Stack) -> tuple[str, ...]:
    queries, keys, values = (stack.paths(role) for role in (Role.QUERY, Role.KEY, Role.VALUE))
    feedforward = stack.feedforward
    return (
        model_type,
        f"`{_layer(stack)}`",
        _beside(keys, values),
        _listed(*stack.paths(Role.DOWN)),
        _beside(queries, values),
        _listed(stack.attention.output),
        _listed(feedforward.output),
        _listed(feedforward.residual),
        f"input of {_listed(feedforward.norm)}" if feedforward.norm else "output of the layer",
    )


def _beside(first: Iterable[str], second: Iterable[str]) -> str:
    """The paths of one attention follow each other; a path that is both is there once."""
    return _listed(*dict.fromkeys(path for pair in zip(first, second, strict=True) for path in pair))


def _layer(stack: Stack) -> str:
    return re.sub(r"\\d\+", "N", stack.layer.replace("(", "").replace(")", "")).replace("\\.", ".")


def _listed(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _row(model_type: str, adapter: str, entry: Mapping[str, Any] | None) -> list[str]:
    """Cells after the adapter's name."""
    if entry is None or adapter not in entry["pytorch"]:
        return ["not measured"] * 7
    pytorch = entry["pytorch"][adapter]
    merges = pytorch["merges"]
    cells = [str(pytorch["sites"]), "yes" if pytorch["trains"] else "no"]
    cells.append("no" if isinstance(merges, str) else f"{merges:.0e}")
    results = {task: entry["tasks"][task][adapter] for task in tasks_of(model_type)}
    for mode in ("merged", "embedded", "swappable"):
        found = (modes[mode] for modes in results.values() if mode in modes)
        errors = [error for error in found if not isinstance(error, str)]
        cells.append(f"{max(errors):.0e}" if errors else "no")
    works = [task for task, modes in results.items() if not any(isinstance(error, str) for error in modes.values())]
    return [*cells, ", ".join(works) or "none"]


def failed(model_type: str, entry: Mapping[str, Any]) -> list[str]:
    """A line for each reason that something does not work: of which task, adapters and modes it is."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for task in tasks_of(model_type):
        for adapter in ADAPTERS:
            for mode, error in entry["tasks"][task].get(adapter, {}).items():
                if isinstance(error, str):
                    reasons.setdefault((task, error), []).append(f"{adapter} {mode}")
    return [f"- **{model_type}**, {task} ({', '.join(what)}): {reason}." for (task, reason), what in reasons.items()]
