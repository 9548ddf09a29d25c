"""`adapter-export onnx`: makes a bundle from a base model and adapters."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from adapter_export.bundle.manifest import MOST_SLOTS, SLOTS, Manifest
from adapter_export.bundle.modes import Binding, Mode
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter, read_checkpoint
from adapter_export.checkpoints.labels import check_given
from adapter_export.checkpoints.problem_types import with_problem_type
from adapter_export.checkpoints.safetensors_header import read_header
from adapter_export.checkpoints.stated_task import choose_task, stated_task
from adapter_export.checkpoints.weights import model_config, weight_files
from adapter_export.errors import InputError
from adapter_export.export.bundle import write_bundle
from adapter_export.export.length_dependent import refuse_unsteady
from adapter_export.export.lower import Lowered
from adapter_export.export.modes import lower_mode
from adapter_export.export.stages import stages_for
from adapter_export.export.target import Target
from adapter_export.export.trace import MIN_OPSET
from adapter_export.hub import local
from adapter_export.models.base_model import BaseModel, load_base, use_padding
from adapter_export.models.heads import with_heads
from adapter_export.models.tokenizer import exportable_tokenizer
from adapter_export.naming import check_adapter_name
from adapter_export.outputs.folder import output_folder, require_space
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.links import follows_links
from adapter_export.runtime.generation.config import read_generation_config

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
    """Exports a base model and adapters as a bundle.

    Args:
        model: Folder of the base model, or `org/name[@revision]` of the Hugging Face hub.
        adapters: Folders of the checkpoints by the names of the adapters.
        output: Folder of the bundle.
        mode: `merged` (one adapter or none), `embedded` (exactly one), `swappable` or `bank` (any number from one).
        task: A task, or `auto` for the task that the adapters state or, if they state none, the base model's.
            `features` leaves task heads out. A task that contradicts an adapter is refused.
        cache: Decoders only; False exports a scoring graph without a key-value cache.
        opset: Version of the ONNX standard.
        dtype: `fp32`, `fp16` or `bf16`.
        quantize: `none` or `int8`.
        fuse: The provider for whose fused operators the graphs are made: `none`, `cpu` or `cuda`.
        bind: In mode swappable, `initializer`, or `input` to make adapter tensors required inputs.
        slots: In mode bank, how many adapters a runtime has in memory at once.
        labels: Class names by adapter, in place of those of the checkpoint. An adapter without either has the class
            names of the base model, if their number fits.
        tokenizer: Whether to include the tokenizer. A bundle without one takes token ids only.
        force: Whether to replace a bundle that exists at `output`.
        progress: Called with a description of each step when it begins.
        follow_links: Whether symbolic links in the folders of the model and the adapters may lead out of them.

    Returns:
        The manifest of the bundle.

    Raises:
        InputError: The input is wrong. `output` has not changed then.
        OutputExists: `output` exists already.
        CannotMerge: An adapter cannot be merged.
    """
    folder = existing_folder(local(model, "model"), "model")
    adapters = {name: local(path, "adapter") for name, path in adapters.items()}
    chosen, binding = Mode.parse(mode, "mode"), Binding.parse(bind, "bind")
    _check_request(chosen, adapters, opset, slots, binding)
    target = Target.parse(dtype, quantize, fuse)
    with output_folder(output, force, inputs=[folder, *adapters.values()]) as written:
        checkpoints = {check_adapter_name(name): read_checkpoint(path) for name, path in adapters.items()}
        check_given(labels, adapters)
        config = model_config(folder)
        found = choose_task(
            task, {name: stated_task(checkpoint, config) for name, checkpoint in checkpoints.items()}, config
        )
        say = progress or (lambda text: None)
        say("reading the tokenizer")
        texts = exportable_tokenizer(folder) if tokenizer else None
        require_space(written.folder, _least_bytes(folder, target))
        say("loading the base model")
        base = load_base(folder, found or task, dtype=target.torch_dtype)
        refuse_unsteady(base)
        _check_generation(folder, base, cache)
        base, loaded = with_heads(
            base,
            {
                name: load_adapter(
                    path, base.info, task=base.task, leave_head=task == "features", labels=labels.get(name)
                )
                for name, path in adapters.items()
            },
        )
        loaded = {name: with_problem_type(adapter, base.module.config.to_dict()) for name, adapter in loaded.items()}
        use_padding(base, loaded)
        if base.untrained_head and not loaded:
            raise InputError(
                f"model {folder}: expected a task head ({base.task}), as no adapter brings one; found none"
            )
        for name, adapter in loaded.items():
            if base.untrained_head and not adapter.head:
                raise InputError(
                    f"adapter {name}: expected a task head ({base.task}), as the base model has none; found none"
                )
        base, graphs = lower_mode(base, loaded, chosen, opset, stages_for(base.task, cache), target, binding, say)
        if not chosen.in_graph:
            loaded = {name: _without_idle(name, adapter, graphs) for name, adapter in loaded.items()}
        say("writing and checking the bundle")
        manifest = write_bundle(
            written.folder, base, graphs, chosen, loaded, target, slots, binding, texts, task != "auto"
        )
        written.commit()
        return manifest


def _least_bytes(folder: Path, target: Target) -> int:
    """Returns how many bytes the base model's weights take in the bundle at least."""
    values = 0
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            values += sum(math.prod(entry.shape) for entry in read_header(path).tensors.values())
        else:
            # The dtypes of a .bin file are known only after reading it. No value has more than 4 bytes.
            values += path.stat().st_size // 4
    return values * target.value_bytes


def _without_idle(name: str, adapter: Adapter, graphs: Mapping[str, Lowered]) -> Adapter:
    """Returns the adapter without sites that do not affect any output.

    An example is a pooling layer that the class of the task does not use. The graphs have no place for the tensors of
    such sites. If the graphs have no place for any site, all are kept, so that a later check reports the error.
    """
    known = {tensor.rpartition(".")[0] for graph in graphs.values() for info in graph.sites for tensor in info.tensors}
    kept = {
        site: site_adapter
        for site, site_adapter in adapter.sites.items()
        if f"{site.name}.{site_adapter.operator.op_name}" in known
    }
    if not kept or len(kept) == len(adapter.sites):
        return adapter
    idle = ", ".join(site.name for site in adapter.sites if site not in kept)
    _log.warning("adapter %s: no output of the graph reads %s: left out, without effect", name, idle)
    return replace(adapter, sites=kept)


def _check_generation(folder: Path, base: BaseModel, cache: bool) -> None:
    """Checks the model's generation settings if the bundle can generate, and logs settings that are not read."""
    if not cache or base.task not in ("causal-lm", "seq2seq-lm"):
        return
    config = read_generation_config(folder)
    config.rules.check(base.module.config.get_text_config().vocab_size)
    if config.unread:
        _log.warning("model %s: generation_config.json: not read: %s", folder, ", ".join(config.unread))


def _check_request(mode: Mode, adapters: Mapping[str, object], opset: int, slots: int, bind: Binding) -> None:
    if not adapters and mode.needs_adapter:
        raise InputError(
            f"mode {mode}: expected at least one --adapter NAME=DIR, found none; {Mode.MERGED} takes the model as it is"
        )
    if mode.in_graph and len(adapters) > 1:
        takers = " and ".join(Mode.that_take_adapters())
        raise InputError(f"mode {mode}: expected exactly one adapter, found {len(adapters)}; {takers} take many")
    if bind.required and mode is not Mode.SWAPPABLE:
        raise InputError(
            f"bind {bind} with mode {mode}: expected mode {Mode.SWAPPABLE}, whose adapters are given at each run"
        )
    if not 1 <= slots <= MOST_SLOTS:
        raise InputError(f"slots {slots}: expected 1 to {MOST_SLOTS}")
    if opset < MIN_OPSET:
        raise InputError(f"opset {opset}: expected at least {MIN_OPSET}")
