"""`adapter-export train`: from a model and a data file to an adapter in its method's own format."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export import tasks
from adapter_export.basemodel import BaseModel, load_base
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import save_adapter
from adapter_export.checkpoints.problem_types import SINGLE
from adapter_export.checkpoints.weights import model_config
from adapter_export.errors import InputError
from adapter_export.hub import local, source_of
from adapter_export.methods import registry
from adapter_export.methods.contract import Method, SiteAdapter
from adapter_export.methods.placement import placed
from adapter_export.outputs.folder import output_folder
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.hashes import sha256
from adapter_export.reading.links import follows_links
from adapter_export.sites import Site
from adapter_export.training.classes import classes_of
from adapter_export.training.columns import Columns, find_columns
from adapter_export.training.conversations import Conversations, read_conversations
from adapter_export.training.data import prepare
from adapter_export.training.loop import fit
from adapter_export.training.metrics import METRICS
from adapter_export.training.processes import is_first
from adapter_export.training.run_folder import RunFolder
from adapter_export.training.settings import TrainingSettings
from adapter_export.training.tables import DataTable, read_table


@dataclass(frozen=True)
class TrainResult:
    """What was trained, and how well it does.

    parameters, steps, kept_step, loss, metrics, history: see `loop.FitResult`. max_length: tokens of a text at most;
    truncated: how many texts were; left_out: rows of which that left nothing to learn. resumed_from: updates that a
    killed run had done, or None.
    """

    output: Path
    method: str
    task: str
    labels: tuple[str, ...]
    parameters: int
    steps: int
    kept_step: int
    loss: float | None
    metrics: Mapping[str, float]
    history: tuple[Mapping[str, float], ...]
    max_length: int
    truncated: int
    left_out: int
    resumed_from: int | None
    seconds: float


@follows_links("model")
def train(
    model: str | Path,
    method: str,
    task: str,
    train: str | Path,
    output: str | Path,
    *,
    eval: str | Path | None = None,  # noqa: A002
    text_column: str | None = None,
    label_column: str | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int = 32,
    learning_rate: float | None = None,
    max_length: int | None = None,
    seed: int = 0,
    gradient_accumulation: int = 1,
    early_stopping: int | None = None,
    target: str | None = None,
    resume: bool = False,
    force: bool = False,
    progress: bool = False,
    follow_links: bool = False,
    **options: Any,
) -> TrainResult:
    """Train an adapter, and the task head where the task has one, on a frozen base model; write it to `output`.

    train, eval: csv, tsv, jsonl or parquet files. text_column: what the model reads; label_column: the class, the
    target text of seq2seq-lm, or the completion of causal-lm, which without one learns all of the text; None for both
    finds them by name (docs/training.md). epochs or max_steps (updates), else 4 epochs. batch_size: of an
    update, shared by all processes and gradient_accumulation steps. learning_rate: None takes the method's own.
    early_stopping: see `TrainingSettings.patience`. target: regular expression of the modules to adapt.
    resume: continue a killed run of the same settings, where there is one. follow_links: whether links in the model's
    folder may lead out of it. options: the method's own (see its `Options`); None means its default.

    In a process group (`torchrun`) every process calls this; the first one writes. Raises InputError for anything
    unusable, before any training where it can be seen before; OutputExists for an output that holds something.
    """
    started = time.monotonic()
    chosen = registry.get(method)
    method_options = _method_options(chosen, options)
    settings = TrainingSettings(
        learning_rate=chosen.learning_rate if learning_rate is None else learning_rate,
        batch_size=batch_size,
        epochs=epochs,
        max_steps=max_steps,
        gradient_accumulation=gradient_accumulation,
        patience=early_stopping,
        seed=seed,
    )
    if task not in METRICS:
        raise InputError(f"task {task!r}: expected one of {', '.join(METRICS)}")
    if early_stopping is not None and eval is None:
        raise InputError("--early-stopping: needs --eval, to see on when to stop")
    files = [Path(path) for path in (train, eval) if path is not None]
    model = local(model, "model")
    first = is_first()
    with output_folder(output, force, [model, *files]) if first else nullcontext() as written:
        columns = find_columns(train, task, text_column, label_column)
        tables = [_read(path, columns) for path in files]
        labels: tuple[str, ...] = ()
        if tasks.get(task).labelled and isinstance(tables[0], DataTable):
            classes = classes_of(tables[0], model_config(existing_folder(model, "model")))
            labels, tables = (
                classes.names,
                [classes.of(table) if isinstance(table, DataTable) else table for table in tables],
            )
        base = _seeded_base(model, task, labels, seed)
        named_padding = base.module.config.get_text_config().pad_token_id is not None
        data = prepare(base, *tables, max_length=max_length, labels=labels)
        site_adapters = _initial_tensors(base, chosen, method_options, target, seed)

        run_folder = RunFolder.beside(Path(output), written.note_scratch) if written else RunFolder.beside(Path(output))
        run = {
            "model": base.info.sha256,
            **{name: sha256(path) for name, path in zip(("train", "eval"), files, strict=False)},
            "columns": columns.names,
            "method": method,
            "options": asdict(method_options),
            "target": target,
            "task": task,
            "max_length": data.max_length,
            **asdict(settings),
        }
        if first:
            run_folder.check(run, resume=resume, force=force)
        resumed_from = run_folder.last_step() if resume else None
        with run_folder.opened(run, resume=resume) if first else nullcontext():
            fitted = fit(base, site_adapters, data, settings, run_folder, resume=resume, progress=progress and first)
            if written is not None:
                adapter = Adapter(
                    method,
                    fitted.sites,
                    fitted.head,
                    labels or None,
                    task,
                    problem_type=SINGLE if labels else None,
                    # A classifier finds the end of a text by it: whoever serves it must know which it was.
                    pad_token_id=data.pad_token_id if labels and not named_padding else None,
                )
                save_adapter(written.folder, adapter, base.info, source_of(base.folder) or str(base.folder))
                written.commit()
    return TrainResult(
        output=Path(output),
        method=method,
        task=task,
        labels=labels,
        parameters=fitted.parameters,
        steps=fitted.steps,
        kept_step=fitted.kept_step,
        loss=fitted.loss,
        metrics=fitted.metrics,
        history=fitted.history,
        max_length=data.max_length,
        truncated=data.truncated,
        left_out=data.left_out,
        resumed_from=resumed_from,
        seconds=round(time.monotonic() - started, 3),
    )


def _method_options(method: Method, options: Mapping[str, Any]) -> Any:
    """The method's options, from those that were given; raises InputError for one it does not have."""
    given = {name: value for name, value in options.items() if value is not None}
    known = [field.name for field in fields(method.Options)]
    if unknown := sorted(set(given) - set(known)):
        option = unknown[0].replace("_", "-")
        raise InputError(f"--{option}: method {method.name!r} has no such setting, only: {', '.join(known) or 'none'}")
    return method.Options(**given)


def _read(path: Path, columns: Columns) -> DataTable | Conversations:
    return read_conversations(path, columns) if columns.messages else read_table(path, columns.text, columns.label)


def _seeded_base(model: str | Path, task: str, labels: tuple[str, ...], seed: int) -> BaseModel:
    """The base model; a task head that its checkpoint lacks is random, and the same for the same seed."""
    from transformers import set_seed

    set_seed(seed)
    return load_base(model, task, labels=labels or None)


def _initial_tensors(
    base: BaseModel, method: Method, options: Any, target: str | None, seed: int
) -> dict[Site, SiteAdapter]:
    info = base.info
    operators = placed(method, info, options, target)
    if convolutions := [site.module for site in operators if site.module in info.convolutions]:
        raise InputError(f"--target {target!r}: {convolutions[0]} is a convolution, where no adapter is trained yet")
    rng = np.random.default_rng(seed)
    return {
        site: SiteAdapter(operator, method.initial(operator, info.features(site), options, rng))
        for site, operator in operators.items()
    }
