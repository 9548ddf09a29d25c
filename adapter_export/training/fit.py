"""Training the parameters of some blocks, and a task head, in a frozen base model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapter_export.basemodel import BaseModel, quiet
from adapter_export.checkpoints.adapter import HeadLayer
from adapter_export.injection import Injection, read_head
from adapter_export.methods.contract import Block
from adapter_export.sites import Site
from adapter_export.training.callbacks import keeper, progress_shown, stopped_early
from adapter_export.training.data import Data
from adapter_export.training.settings import Settings
from adapter_export.training.trainee import trainee
from adapter_export.training.trainer import arguments, make_trainer
from adapter_export.training.work import WorkFolder

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import Trainer


@dataclass(frozen=True)
class Fitted:
    """What training gave. steps: updates done; kept_step: the one whose state was kept, which is the last, or with
    early stopping the best. loss: of the last updates before the end. metrics: of the state kept, on the evaluation
    data; empty without. history: the metrics after each epoch, with `epoch` and `step`.
    """

    blocks: Mapping[Site, Block]
    head: Mapping[str, HeadLayer]
    parameters: int
    steps: int
    kept_step: int
    loss: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = ()


def fit(
    base: BaseModel,
    blocks: Mapping[Site, Block],
    data: Data,
    settings: Settings,
    work: WorkFolder,
    *,
    resume: bool = False,
    progress: bool = False,
) -> Fitted:
    """Train `blocks` (none: only the task head) and the task head of `base`, whose head is changed in place.

    work: an open folder for checkpoints. resume: continue from its last complete one, where there is one.
    Raises InputError for batches that cannot be divided among the processes, and when the loss is no longer finite.
    """
    with quiet(), _learning(base, blocks) as injection, progress_shown() if progress else nullcontext() as bar:
        trainer = make_trainer(
            trainee(base),
            arguments(settings, work, evaluates=data.evaluation is not None),
            data,
            base.task,
            settings,
            [keeper(settings, work), *([bar] if bar else [])],
        )
        step = work.last_step() if resume else None
        _run(trainer, None if step is None else work.checkpoint(step), settings)
        state = trainer.state
        kept = state.global_step
        if settings.patience is not None:
            kept = state.best_global_step
            trainer.model.load_state_dict(_load(work.checkpoint(kept)))
        # The first process removes the folder, which the others may still be reading.
        trainer.args.distributed_state.wait_for_everyone()
        history = [_evaluation(log) for log in state.log_history if "eval_loss" in log]
        metrics = next((entry for entry in history if entry["step"] == kept), {})
        return Fitted(
            blocks=injection.blocks(),
            head=read_head(base.module, base.info.head),
            parameters=sum(value.numel() for value in trainer.model.state_dict().values()),
            steps=state.global_step,
            kept_step=kept,
            loss=next((log["loss"] for log in reversed(state.log_history) if "loss" in log), None),
            metrics={name: value for name, value in metrics.items() if name not in ("step", "epoch")},
            history=tuple(history),
        )


@contextmanager
def _learning(base: BaseModel, blocks: Mapping[Site, Block]) -> Iterator[Injection]:
    """The blocks in the model, and its task head trainable; afterwards the model is frozen and where it was."""
    device = base.module.device
    injection = Injection(base.module, blocks)
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


def _run(trainer: Trainer, checkpoint: Path | None, settings: Settings) -> None:
    """Train to the end, from a checkpoint where there is one; afterwards the trainer holds the last state."""
    from transformers import TrainerState
    from transformers.trainer import TRAINER_STATE_NAME

    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        # Killed between the last update and the writing of the result: the Trainer would do one update more.
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
    """One evaluation of the Trainer's log: our metrics of it, with the epoch and the step they were taken at."""
    names = ("loss", "accuracy", "macro_f1", "perplexity")
    metrics = {name: log[f"eval_{name}"] for name in names if f"eval_{name}" in log}
    return {"epoch": log["epoch"], "step": log["step"], **metrics}
