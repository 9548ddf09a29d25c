"""`adapter-export train`: trains an adapter on a data file, and writes it in the format of its method."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export import tasks
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import save_adapter
from adapter_export.checkpoints.problem_types import SINGLE
from adapter_export.checkpoints.weights import model_config
from adapter_export.errors import InputError
from adapter_export.hub import local, source_of
from adapter_export.methods import registry
from adapter_export.methods.contract import Method, SiteAdapter
from adapter_export.methods.placement import placed
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.outputs.folder import output_folder
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.hashes import sha256
from adapter_export.reading.links import follows_links
from adapter_export.sites import Port, Site
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

    Attributes:
        output: Folder of the adapter.
        method: Name of the method.
        task: Name of the task.
        labels: Class names; empty without a classification head.
        parameters: See `loop.FitResult`, as for the next five.
        steps: Number of updates.
        kept_step: The update whose state was kept.
        loss: Training loss.
        metrics: Metrics on the evaluation data.
        history: Metrics after each epoch.
        max_length: Texts were cut to this many tokens.
        truncated: How many texts were cut.
        left_out: How many rows were left out, because cutting left nothing of them to learn.
        resumed_from: Number of updates that a killed run had done; None if none was resumed.
        seconds: Duration.
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
    """Trains an adapter, and a task head where the task has one, on a frozen base model, and writes them to a folder.

    In a process group (`torchrun`), every process calls this function, and the first process writes.

    Args:
        model: Folder of the base model, or `org/name@revision` on the Hugging Face hub.
        method: Name of the method.
        task: `text-classification`, `causal-lm` or `seq2seq-lm`.
        train: Training data: a csv, tsv, jsonl or parquet file.
        output: Folder for the adapter.
        eval: Evaluation data, in a file of the same kinds.
        text_column: The column that the model reads; None: found by its name (docs/training.md).
        label_column: The column with the class, with the target text of seq2seq-lm, or with the completion of
            causal-lm; None: found by its name. Without a completion, causal-lm learns all of the text.
        epochs: Passes over the training data, 4 if neither this nor `max_steps` is given.
        max_steps: Number of updates, in place of `epochs`.
        batch_size: Examples of an update, over all processes and gradient accumulation steps together.
        learning_rate: The highest learning rate; None takes the method's own.
        max_length: Texts are cut to this many tokens; None: see `data.prepare`.
        seed: Seed of all random numbers.
        gradient_accumulation: Number of forward passes that an update is divided into.
        early_stopping: See `TrainingSettings.patience`.
        target: Regular expression of the modules to adapt, in place of the method's own choice.
        resume: Whether to continue a killed run with the same settings, where there is one.
        force: Whether to replace the content of `output`, and to discard a killed run.
        progress: Whether to show the progress on stderr.
        follow_links: Whether links in the model's folder may lead out of it.
        options: The method's own options, see its `Options`; None means an option's default.

    Raises:
        InputError: An input cannot be used. Where possible this is found before training starts.
        OutputExists: `output` is not empty.
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
                    # A classifier finds the end of a text by this token, so it must be known where the adapter is
                    # served.
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
    """Returns the method's options with the values that were given. Raises InputError for an option that it does
    not have.
    """
    given = {name: value for name, value in options.items() if value is not None}
    known = [field.name for field in fields(method.Options)]
    if unknown := sorted(set(given) - set(known)):
        option = unknown[0].replace("_", "-")
        raise InputError(f"--{option}: method {method.name!r} has no such setting, only: {', '.join(known) or 'none'}")
    return method.Options(**given)


def _read(path: Path, columns: Columns) -> DataTable | Conversations:
    return read_conversations(path, columns) if columns.messages else read_table(path, columns.text, columns.label)


def _seeded_base(model: str | Path, task: str, labels: tuple[str, ...], seed: int) -> BaseModel:
    """Returns the base model. A task head that its checkpoint lacks is random, and the same for the same seed."""
    from transformers import set_seed

    set_seed(seed)
    return load_base(model, task, labels=labels or None)


def _initial_tensors(
    base: BaseModel, method: Method, options: Any, target: str | None, seed: int
) -> dict[Site, SiteAdapter]:
    info = base.info
    operators = placed(method, info, options, target)
    for site in operators:
        if site.module in info.convolutions:
            raise InputError(f"--target {target!r}: {site.module} is a convolution, where no adapter is trained yet")
        if site.module in info.embeddings and site.port is Port.BRANCH:
            raise InputError(f"--target {target!r}: {site.module} is an embedding, around which no adapter is trained")
    rng = np.random.default_rng(seed)
    return {site: method.initial(operator, info.features(site), options, rng) for site, operator in operators.items()}
