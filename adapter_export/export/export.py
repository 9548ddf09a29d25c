"""`adapter-export onnx`: base model and adapters to a bundle."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adapter_export.basemodel import BaseModel, load_base, use_padding
from adapter_export.bundle.adapter_file import adapter_tensors
from adapter_export.bundle.manifest import BINDINGS, MANY, MODEL, MODES, MOST_SLOTS, SLOTS, Manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.files import existing_folder
from adapter_export.checkpoints.folder import load_adapter, read_checkpoint
from adapter_export.checkpoints.labels import check_given
from adapter_export.checkpoints.problem_types import with_problem_type
from adapter_export.checkpoints.safetensors_header import read_header
from adapter_export.checkpoints.told import choose_task, told
from adapter_export.checkpoints.weights import model_config, weight_files
from adapter_export.errors import InputError
from adapter_export.export.bank import Bank
from adapter_export.export.bundle import write_bundle
from adapter_export.export.head import head_defaults
from adapter_export.export.lower import Lowered, lower, share_tensors
from adapter_export.export.stages import StageOf, scoring, stages_for
from adapter_export.export.storage import Constants, Overridable, Required
from adapter_export.export.target import Target
from adapter_export.export.trace import FP32, MIN_OPSET, Trace, trace
from adapter_export.export.unsteady import refuse_unsteady
from adapter_export.hub import local
from adapter_export.injection import load_head, with_heads
from adapter_export.merging.model import merge_into
from adapter_export.methods.contract import Operator
from adapter_export.naming import check_adapter_name
from adapter_export.outputs.folder import output_folder, require_space
from adapter_export.reading.links import follows_links
from adapter_export.runtime.generation.config import read_generation_config
from adapter_export.sites import Site
from adapter_export.tokenizer import exportable_tokenizer

_log = logging.getLogger(__name__)
Progress = Callable[[str], None]


@follows_links("model", "adapters")
def export_onnx(
    model: str | Path,
    adapters: Mapping[str, str | Path],
    output: str | Path,
    *,
    mode: str,
    task: str = "auto",
    cache: bool = True,
    opset: int = MIN_OPSET,
    dtype: str = "fp32",
    quantize: str = "none",
    fuse: str = "none",
    bind: str = "initializer",
    slots: int = SLOTS,
    labels: Mapping[str, Sequence[str]] = MappingProxyType({}),
    tokenizer: bool = True,
    force: bool = False,
    progress: Progress | None = None,
    follow_links: bool = False,
) -> Manifest:
    """Export a bundle to the folder `output`; returns its manifest.

    model: base model folder. adapters: checkpoint folders by name. mode: see `MODES`; merged takes one adapter or none
    (the model as it is), embedded exactly one, swappable any number from one. task: `auto` takes the adapters' task
    where they tell one, else the base model's; `features` leaves task heads out; any other that contradicts an adapter
    is refused. cache: decoders only; False exports a scoring graph without a key-value cache. dtype, quantize, fuse:
    see `export.target`. bind: of mode swappable, see `bundle.manifest.BINDINGS`. slots: of mode bank, how many adapters
    a runtime holds in memory at once. labels: class names by adapter, which win over those of the checkpoint; without
    either, the base model's own where their number fits. tokenizer: False leaves it out; the bundle then takes token
    ids alone. progress: called with what begins now, in words. follow_links: whether links in the folders of the model
    and the adapters may lead out of them.

    Raises InputError (OutputExists, CannotMerge) for bad input; then `output` is as it was.
    """
    folder, adapters = inputs_of(model, adapters, mode, opset, slots, bind)
    target = Target(dtype, quantize, fuse)
    say = progress or (lambda text: None)
    with output_folder(output, force, inputs=[folder, *adapters.values()]) as written:
        prepared = prepare(folder, adapters, target, task, cache, labels, tokenizer, say, written.folder, output)
        base, loaded = prepared.base, prepared.adapters
        base, graphs = lower_mode(base, loaded, mode, opset, prepared.stages, target, bind, say)
        if mode in MANY:
            loaded = {name: _without_idle(name, adapter, graphs) for name, adapter in loaded.items()}
        say("writing and checking the bundle")
        manifest = write_bundle(
            written.folder, base, graphs, mode, loaded, target, slots, bind, prepared.tokenizer, task != "auto"
        )
        written.commit()
        return manifest


def inputs_of(
    model: str | Path, adapters: Mapping[str, str | Path], mode: str, opset: int, slots: int, bind: str
) -> tuple[Path, dict[str, Path]]:
    """The folders of the model and of the adapters. Raises InputError for a request that no input could meet."""
    folder = existing_folder(local(model, "model"), "model")
    paths = {name: local(path, "adapter") for name, path in adapters.items()}
    _check_request(mode, paths, opset, slots, bind)
    return folder, paths


@dataclass(frozen=True)
class Prepared:
    """An export that was read and checked, before anything is traced. tokenizer: see `exportable_tokenizer`, None
    without one."""

    base: BaseModel
    adapters: Mapping[str, Adapter]
    stages: Mapping[str, StageOf]
    tokenizer: Any


def prepare(
    folder: Path,
    adapters: Mapping[str, Path],
    target: Target,
    task: str,
    cache: bool,
    labels: Mapping[str, Sequence[str]],
    tokenizer: bool,
    say: Progress,
    disk: Path,
    output: str | Path,
) -> Prepared:
    """Read the checkpoints, load the base model, and check that they fit each other. Raises as `export_onnx`.

    disk: an existing folder where the output will be written.
    """
    checkpoints = {check_adapter_name(name): read_checkpoint(path) for name, path in adapters.items()}
    check_given(labels, adapters)
    config = model_config(folder)
    found = choose_task(task, {name: told(checkpoint, config) for name, checkpoint in checkpoints.items()}, config)
    say("reading the tokenizer")
    texts = exportable_tokenizer(folder) if tokenizer else None
    require_space(disk, least_bytes(folder, target), output)
    say("loading the base model")
    base = load_base(folder, found or task, dtype=target.torch_dtype)
    refuse_unsteady(base)
    _check_generation(folder, base, cache)
    base, loaded = with_heads(
        base,
        {
            name: load_adapter(path, base.info, task=base.task, leave_head=task == "features", labels=labels.get(name))
            for name, path in adapters.items()
        },
    )
    loaded = {name: with_problem_type(adapter, base.module.config.to_dict()) for name, adapter in loaded.items()}
    use_padding(base, loaded)
    if base.untrained_head and not loaded:
        raise InputError(f"model {folder}: expected a task head ({base.task}), as no adapter brings one; found none")
    for name, adapter in loaded.items():
        if base.untrained_head and not adapter.head:
            raise InputError(
                f"adapter {name}: expected a task head ({base.task}), as the base model has none; found none"
            )
    return Prepared(base, loaded, stages_for(base.task, cache), texts)


def least_bytes(folder: Path, target: Target) -> int:
    """Bytes that the base model's weights take in the bundle, at least."""
    values = 0
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            values += sum(math.prod(entry.shape) for entry in read_header(path).tensors.values())
        else:
            # A .bin file tells its types only where it is read; none has more than 4 bytes a value.
            values += path.stat().st_size // 4
    return values * target.value_bytes


def _without_idle(name: str, adapter: Adapter, graphs: Mapping[str, Lowered]) -> Adapter:
    """The adapter without sites that no output reads, as those of a pooling layer that a task's class runs past: their
    tensors have no place in the graphs. All of them stay where none has one, for an error that says so."""
    known = {
        ".".join(tensor.split(".")[:-1]) for graph in graphs.values() for info in graph.sites for tensor in info.tensors
    }
    kept = {site: block for site, block in adapter.blocks.items() if f"{site.name}.{block.operator.slug}" in known}
    if not kept or len(kept) == len(adapter.blocks):
        return adapter
    idle = ", ".join(site.name for site in adapter.blocks if site not in kept)
    _log.warning("adapter %s: no output of the graph reads %s: left out, without effect", name, idle)
    return replace(adapter, blocks=kept)


def _check_generation(folder: Path, base: BaseModel, cache: bool) -> None:
    """What the model's files say of generating is usable, where it generates; what of it is not read, is logged."""
    if not cache or base.task not in ("causal-lm", "seq2seq-lm"):
        return
    config = read_generation_config(folder)
    config.rules.check(base.module.config.get_text_config().vocab_size)
    if config.unread:
        _log.warning("model %s: generation_config.json: not read: %s", folder, ", ".join(config.unread))


def lower_mode(
    base: BaseModel,
    adapters: Mapping[str, Adapter],
    mode: str,
    opset: int = MIN_OPSET,
    stages: Mapping[str, StageOf] = MappingProxyType({MODEL: scoring}),
    target: Target = FP32,
    bind: str = "initializer",
    progress: Progress = lambda text: None,
) -> tuple[BaseModel, dict[str, Lowered]]:
    """Trace the base model's stages, each once, and lower them to `mode`; gives the graphs by file.

    In modes merged and embedded the head becomes the adapter's. target: of a base model loaded at that dtype. progress:
    called with what begins now, in words.
    """

    def make(file: str, sites: Mapping[Site, Sequence[Operator]], head: Sequence[str] = ()) -> Trace:
        progress(f"tracing {file}")
        return trace(base, sites, head, opset, stage=stages[file], target=target)

    if mode in MANY:
        sites = union_of_sites(adapters.values())
        head = base.info.head
        defaults = head_defaults(base)
        last = head[-1] if head else None
        stacked = Bank([adapter_tensors(adapter) for adapter in adapters.values()])
        many = stacked if mode == "bank" else Required() if bind == "input" else Overridable()
        graphs = {file: lower(make(file, sites, head), sites, many, defaults, last) for file in stages}
        # Required inputs that a graph does not read would have to be given all the same.
        return base, share_tensors(graphs) if isinstance(many, Overridable) else graphs
    base = with_own(base, adapters, mode)
    if not adapters or mode == "merged":
        return base, {file: lower(make(file, {}), {}) for file in stages}
    (adapter,) = adapters.values()
    sites = union_of_sites([adapter])
    storage = Constants(adapter_tensors(adapter))
    return base, {file: lower(make(file, sites), sites, storage) for file in stages}


def with_own(base: BaseModel, adapters: Mapping[str, Adapter], mode: str) -> BaseModel:
    """The base model with what becomes its own of the one adapter in modes merged and embedded: the task head, and in
    mode merged the body as well. Raises InputError for a head that does not fit, CannotMerge with the reason."""
    if not adapters:
        return base
    (adapter,) = adapters.values()
    if adapter.head and base.info.head:
        load_head(base.module, adapter)
        base = replace(base, untrained_head=False)
    if mode == "merged":
        merge_into(base.module, adapter)
    return base


def union_of_sites(adapters: Iterable[Adapter]) -> dict[Site, list[Operator]]:
    """Every site of any of the adapters, with each different operator that stands there, in a stable order.

    Raises InputError where two of them read other modules for the same tensors: one graph computes one of the two.
    """
    sites: dict[Site, list[Operator]] = {}
    owners: dict[tuple[str, str], Site] = {}
    for adapter in adapters:
        for site, block in adapter.blocks.items():
            other = owners.setdefault((site.name, block.operator.op_type), site)
            if other != site:
                raise InputError(
                    f"site {site.name}: one adapter reads {site.reads}, another {other.reads}; export them as bundles "
                    "of their own"
                )
            stack = sites.setdefault(site, [])
            if block.operator not in stack:
                stack.append(block.operator)
    return {site: sorted(stack, key=lambda operator: operator.op_type) for site, stack in sites.items()}


def _check_request(mode: str, adapters: Mapping[str, object], opset: int, slots: int, bind: str) -> None:
    if mode not in MODES:
        raise InputError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    if not adapters and mode != "merged":
        raise InputError(
            f"mode {mode}: expected at least one --adapter NAME=DIR, found none; merged takes the model as it is"
        )
    if mode not in MANY and len(adapters) > 1:
        raise InputError(
            f"mode {mode}: expected exactly one adapter, found {len(adapters)}; {' and '.join(MANY)} take many"
        )
    if bind not in BINDINGS:
        raise InputError(f"bind {bind!r}: expected one of {', '.join(BINDINGS)}")
    if bind == "input" and mode != "swappable":
        raise InputError(f"bind input with mode {mode}: expected mode swappable, whose adapters are given at each run")
    if not 1 <= slots <= MOST_SLOTS:
        raise InputError(f"slots {slots}: expected 1 to {MOST_SLOTS}")
    if opset < MIN_OPSET:
        raise InputError(f"opset {opset}: expected at least {MIN_OPSET}")
