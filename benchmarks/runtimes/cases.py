"""The runs that every runtime is asked for, and what PyTorch computes for them in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from adapter_export.bundle.graphs import ADAPTER_IDS, MODEL, is_cache, is_past, present_of
from adapter_export.bundle.manifest import GraphInfo, Manifest, read_manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.models.base_model import load_base
from adapter_export.parity.references.pytorch import Reference
from benchmarks.runtimes.jobs import AdapterFile, Arrays, Job, Runs, Step
from benchmarks.runtimes.made import BANK, REQUIRED, SWAPPABLE, Made

# Tokens of the texts of an encoder; of the prompt of a language model, and those that follow it one at a time.
LENGTHS = (5, 23)
PROMPT, FOLLOWING = 12, 4


def jobs(made: Made) -> dict[str, Job]:
    """One job for each form of a model."""
    import torch

    reference = Reference(load_base(made.base, made.task, dtype=torch.float64))
    adapters = {name: load_adapter(folder, reference.base.info) for name, folder in made.adapters.items()}
    vocabulary = reference.base.module.config.vocab_size
    found = {}
    cases = _texts(vocabulary) if made.task == "features" else _prompt(vocabulary)
    expected: dict[str | None, list[Arrays]] = {None: _expected(reference, None, cases)}
    expected |= {name: _expected(reference, adapter, cases) for name, adapter in adapters.items()}
    for form, bundle in made.bundles.items():
        manifest = read_manifest(bundle)
        found[form] = Job(
            bundle,
            bundle / MODEL,
            {SWAPPABLE: "initializer", REQUIRED: "input"}.get(form, ""),
            _adapter_files(made, form, manifest),
            _runs(made, form, manifest, cases, expected),
            _outputs(manifest),
            last=made.task != "features",
        )
    return found


def _texts(vocabulary: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(4, vocabulary, (1, length)) for length in LENGTHS]


def _prompt(vocabulary: int) -> list[np.ndarray]:
    """All tokens up to each step, the first of which reads the prompt."""
    tokens = np.random.default_rng(0).integers(4, vocabulary, (1, PROMPT + FOLLOWING))
    return [tokens[:, : PROMPT + step] for step in range(FOLLOWING + 1)]


def _expected(reference: Reference, adapter: Adapter | None, cases: Sequence[np.ndarray]) -> list[Arrays]:
    """The outputs of each case; of a language model the logits of the last token alone."""
    found: list[Arrays] = []
    for ids in cases:
        case = reference.case({"input_ids": ids, "attention_mask": np.ones_like(ids)})
        outputs = case.off() if adapter is None else case.on(adapter)
        found.append({"logits": outputs["logits"][:, -1]} if "logits" in outputs else outputs)
    return found


def _outputs(manifest: Manifest) -> list[str]:
    return [name for name in manifest.graphs[MODEL].outputs if not is_cache(name)]


def _adapter_files(made: Made, form: str, manifest: Manifest) -> dict[str, AdapterFile]:
    """Adapters outside of the graph."""
    from onnxruntime import AdapterFormat

    if form not in (SWAPPABLE, REQUIRED):
        return {}

    def tensors(path: str) -> dict[str, np.ndarray]:
        values = AdapterFormat.read_adapter(str(made.bundles[form] / path)).get_parameters()
        # Copies: the arrays are views of memory that ends with `values`.
        return {name: value.numpy().copy() for name, value in values.items()}

    none = tensors("no_adapter.onnx_adapter") if form == REQUIRED else {}
    found = {
        item.name: AdapterFile(made.bundles[form] / item.file, {**none, **tensors(item.file)})
        for item in manifest.adapters
        if item.file is not None
    }
    return {"": AdapterFile(None, none), **found} if form == REQUIRED else found


def _runs(
    made: Made,
    form: str,
    manifest: Manifest,
    cases: Sequence[np.ndarray],
    expected: Mapping[str | None, Sequence[Arrays]],
) -> list[Runs]:
    graph = manifest.graphs[MODEL]
    first, second = made.adapters
    if form in (SWAPPABLE, REQUIRED):
        # In one session: the first adapter comes back after another one.
        return [Runs(name, _steps(graph, cases, {}), expected[name]) for name in (None, first, second, first)]
    if form == BANK:
        slots = {item.name: item.slot for item in manifest.adapters}
        by_row = (second, None, first)
        ids = np.array([slots[name] if name else 0 for name in by_row])
        rows = [
            {output: np.concatenate([expected[name][step][output] for name in by_row]) for output in arrays}
            for step, arrays in enumerate(expected[None])
        ]
        return [Runs(None, _steps(graph, cases, {ADAPTER_IDS: ids}), rows)]
    (only,) = made.names(form)
    return [Runs(None, _steps(graph, cases, {}), expected[only])]


def _steps(graph: GraphInfo, cases: Sequence[np.ndarray], more: Arrays) -> list[Step]:
    """The runs of a graph: each case by itself or, with a cache, the tokens that each case has more than the last."""
    rows = len(more[ADAPTER_IDS]) if more else 1
    past = [name for name in graph.inputs if is_past(name)]
    found, read = [], 0
    for case in cases:
        every = np.repeat(case, rows, axis=0)
        ids = every[:, read:]
        known = {
            "input_ids": ids,
            "attention_mask": np.ones_like(every),
            "token_type_ids": np.zeros_like(ids),
            "position_ids": np.broadcast_to(np.arange(read, every.shape[1]), ids.shape),
            **more,
        }
        feeds = {name: value.astype(np.int64) for name, value in known.items() if name in graph.inputs}
        if past and read == 0:
            feeds |= {name: _empty(graph.inputs[name].shape, rows) for name in past}
        carry = {name: present_of(name) for name in past if read}
        found.append(Step(feeds, carry))
        read = every.shape[1] if past else 0
    return found


def _empty(shape: Sequence[int | str], rows: int) -> np.ndarray:
    """A cache without tokens."""
    return np.zeros([dim if isinstance(dim, int) else rows if dim == "batch" else 0 for dim in shape], np.float32)
