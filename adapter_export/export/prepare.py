"""Reads and checks everything that an export needs, before anything is traced."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter, read_checkpoint
from adapter_export.checkpoints.labels import check_given
from adapter_export.checkpoints.problem_types import with_problem_type
from adapter_export.checkpoints.safetensors_header import read_header
from adapter_export.checkpoints.stated_task import choose_task, stated_task
from adapter_export.checkpoints.weights import model_config, weight_files
from adapter_export.errors import InputError
from adapter_export.export.bank import check_bankable
from adapter_export.export.length_dependent import refuse_unsteady
from adapter_export.export.request import ExportRequest
from adapter_export.export.stage import StageOf
from adapter_export.export.stages import stages_for
from adapter_export.export.target import Target
from adapter_export.models.base_model import BaseModel, load_base, use_padding
from adapter_export.models.heads import with_heads
from adapter_export.models.tokenizer import exportable_tokenizer
from adapter_export.naming import check_adapter_name
from adapter_export.outputs.folder import require_space
from adapter_export.runtime.generation.config import read_generation_config

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """An export that was read and checked.

    Attributes:
        base: The base model.
        adapters: The adapters by name.
        stages: The parts of the model that become graphs, by file.
        tokenizer: The tokenizer to write, see `exportable_tokenizer`; None without one.
    """

    base: BaseModel
    adapters: Mapping[str, Adapter]
    stages: Mapping[str, StageOf]
    tokenizer: Any


def prepare(request: ExportRequest, disk: Path, output: str | Path, say: Callable[[str], None]) -> Prepared:
    """Reads the checkpoints, loads the base model, and checks that they fit each other.

    Args:
        request: What the caller asks for.
        disk: An existing folder on the disk that the output will be on.
        output: The output, for messages.
        say: Called with what begins now, in words.

    Raises:
        InputError: Bad input, as in `export_onnx`.
    """
    folder = request.folder
    checkpoints = {check_adapter_name(name): read_checkpoint(path) for name, path in request.adapters.items()}
    check_given(request.labels, request.adapters)
    config = model_config(folder)
    stated = {name: stated_task(checkpoint, config) for name, checkpoint in checkpoints.items()}
    task = choose_task(request.task, stated, config) or request.task
    say("reading the tokenizer")
    tokenizer = exportable_tokenizer(folder) if request.tokenizer else None
    require_space(disk, least_bytes(folder, request.target), output)
    say("loading the base model")
    base = load_base(folder, task, dtype=request.target.torch_dtype)
    refuse_unsteady(base)
    _check_generation(folder, base, request.cache)
    base, adapters = with_heads(
        base,
        {
            name: load_adapter(
                path,
                base.info,
                task=base.task,
                leave_head=request.task == "features",
                labels=request.labels.get(name),
            )
            for name, path in request.adapters.items()
        },
    )
    if request.mode.per_row:
        check_bankable(adapters)
    adapters = {name: with_problem_type(adapter, base.module.config.to_dict()) for name, adapter in adapters.items()}
    use_padding(base, adapters)
    if base.untrained_head and not adapters:
        raise InputError(f"model {folder}: expected a task head ({base.task}), as no adapter brings one; found none")
    for name, adapter in adapters.items():
        if base.untrained_head and not adapter.head:
            raise InputError(
                f"adapter {name}: expected a task head ({base.task}), as the base model has none; found none"
            )
    return Prepared(base, adapters, stages_for(base.task, request.cache), tokenizer)


def least_bytes(folder: Path, target: Target) -> int:
    """Returns how many bytes the base model's weights take in the bundle at least."""
    values = 0
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            values += sum(math.prod(entry.shape) for entry in read_header(path).tensors.values())
        else:
            # The dtypes of a .bin file are known only after reading it. No value has more than 4 bytes.
            values += path.stat().st_size // 4
    return values * target.value_bits // 8


def _check_generation(folder: Path, base: BaseModel, cache: bool) -> None:
    """Checks the model's generation settings if the bundle can generate, and logs settings that are not read."""
    if not cache or base.task not in ("causal-lm", "seq2seq-lm"):
        return
    config = read_generation_config(folder)
    config.rules.check(base.module.config.get_text_config().vocab_size)
    if config.unread:
        _log.warning("model %s: generation_config.json: not read: %s", folder, ", ".join(config.unread))
