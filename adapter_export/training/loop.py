"""Trains the parameters of an adapter and a task head in a frozen base model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapter_export.checkpoints.adapter import HeadLayer
from adapter_export.methods.contract import SiteAdapter
from adapter_export.models.base_model import BaseModel
from adapter_export.models.heads import read_head
from adapter_export.models.injection import Injection
from adapter_export.models.quiet import quiet
from adapter_export.sites import Site
from adapter_export.training.adapter_module import adapter_module
from adapter_export.training.callbacks import keeper, progress_shown, stopped_early
from adapter_export.training.data import Data
from adapter_export.training.run_folder import RunFolder
from adapter_export.training.settings import TrainingSettings
from adapter_export.training.trainer import arguments, make_trainer

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import Trainer


@dataclass(frozen=True)
class FitResult:
    """The result of training.

    Attributes:
        sites: Trained operators and tensors by site.
        head: Layers of the trained task head, by module path.
        parameters: Number of trained values.
        steps: Number of updates done.
        kept_step: The update whose state was kept: the last, or with early stopping the best.
        loss: Training loss of the last updates.
        metrics: Metrics of the kept state on the evaluation data; empty without evaluation data.
        history: Metrics after each epoch, with `epoch` and `step`.
    """

    sites: Mapping[Site, SiteAdapter]
    head: Mapping[str, HeadLayer]
    parameters: int
    steps: int
    kept_step: int
    loss: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = ()


def fit(
    base: BaseModel,
    site_adapters: Mapping[Site, SiteAdapter],
    data: Data,
    settings: TrainingSettings,
    run_folder: RunFolder,
    *,
    resume: bool = False,
    progress: bool = False,
) -> FitResult:
    """Trains an adapter and the task head of a base model. The head of `base` is changed in place.

    Args:
        base: The base model.
        site_adapters: Operators and initial tensors by site. If empty, only the task head is trained.
        data: The data.
        settings: Settings of the run.
        run_folder: An open folder for checkpoints.
        resume: Whether to continue from the last complete checkpoint, where there is one.
        progress: Whether to show the progress on stderr.

    Raises:
        InputError: Batches cannot be divided among the processes, or the loss is not finite any more.
    """
    with quiet(), _learning(base, site_adapters) as injection, progress_shown() if progress else nullcontext() as bar:
        trainer = make_trainer(
            adapter_module(base),
            arguments(settings, run_folder, evaluates=data.evaluation is not None),
            data,
            base.task,
            settings,
            [keeper(settings, run_folder), *([bar] if bar else [])],
        )
        step = run_folder.last_step() if resume else None
        _run(trainer, None if step is None else run_folder.checkpoint(step), settings)
        state = trainer.state
        kept = state.global_step
        if settings.patience is not None:
            kept = state.best_global_step
            trainer.model.load_state_dict(_load(run_folder.checkpoint(kept)))
        # The first process removes the folder: wait, as other processes may still read it.
        trainer.args.distributed_state.wait_for_everyone()
        history = [_evaluation(log) for log in state.log_history if "eval_loss" in log]
        metrics = next((entry for entry in history if entry["step"] == kept), {})
        return FitResult(
            sites=injection.site_adapters(),
            head=read_head(base.module, base.info.head),
            parameters=sum(value.numel() for value in trainer.model.state_dict().values()),
            steps=state.global_step,
            kept_step=kept,
            loss=next((log["loss"] for log in reversed(state.log_history) if "loss" in log), None),
            metrics={name: value for name, value in metrics.items() if name not in ("step", "epoch")},
            history=tuple(history),
        )


@contextmanager
def _learning(base: BaseModel, site_adapters: Mapping[Site, SiteAdapter]) -> Iterator[Injection]:
    """Puts the adapter into the model and makes the task head trainable; afterwards the model is as it was, and
    frozen.
    """
    device = base.module.device
    injection = Injection(base.module, site_adapters)
    heads = [base.module.get_submodule(name) for name in base.info.head]
    try:
        for head in heads:
            head.requires_grad_(True)
        yield injection
    finally:
        injection.remove()
        for head in heads:
            head.requires_grad_(False)
        base.module.to(device)


def _run(trainer: Trainer, checkpoint: Path | None, settings: TrainingSettings) -> None:
    """Trains to the end, from a checkpoint where there is one. Afterwards the trainer holds the last state."""
    from transformers import TrainerState
    from transformers.trainer import TRAINER_STATE_NAME

    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        # The run was killed between its last update and the writing of its result. The Trainer would do one more
        # update.
        if state.global_step >= state.max_steps or stopped_early(state.log_history, settings.patience):
            trainer.model.load_state_dict(_load(checkpoint))
            trainer.state = state
            return
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _load(checkpoint: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file
    from transformers.utils import SAFE_WEIGHTS_NAME

    tensors: dict[str, torch.Tensor] = load_file(checkpoint / SAFE_WEIGHTS_NAME)
    return tensors


def _evaluation(log: Mapping[str, float]) -> dict[str, float]:
    """Returns our metrics of one evaluation in the Trainer's log, with its epoch and step."""
    names = ("loss", "accuracy", "macro_f1", "perplexity")
    metrics = {name: log[f"eval_{name}"] for name in names if f"eval_{name}" in log}
    return {"epoch": log["epoch"], "step": log["step"], **metrics}
