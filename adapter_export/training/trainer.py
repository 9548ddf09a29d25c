"""The training loop of transformers' Trainer, with our module, our order of examples and our checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_export.errors import InputError
from adapter_export.outputs.files import library_writes
from adapter_export.training import processes
from adapter_export.training.batch_sampler import EpochBatchSampler
from adapter_export.training.data import Data
from adapter_export.training.metrics import METRICS
from adapter_export.training.run_folder import RunFolder
from adapter_export.training.settings import DEFAULT_EPOCHS, WARMUP_FRACTION, TrainingSettings

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from transformers import Trainer, TrainerCallback, TrainingArguments


def arguments(settings: TrainingSettings, run_folder: RunFolder, evaluates: bool) -> TrainingArguments:
    """Returns the Trainer's arguments for a run. Making them also joins the process group that `torchrun` announces.

    Args:
        settings: Settings of the run.
        run_folder: The folder for checkpoints.
        evaluates: Whether there is evaluation data.

    Raises:
        InputError: The process group does not have the announced number of processes.
    """
    import torch
    from transformers import TrainingArguments

    # Two checkpoints, in case the run is killed while the last is written. The best is kept in addition.
    made = TrainingArguments(
        output_dir=str(run_folder.path),
        per_device_eval_batch_size=settings.batch_size,
        num_train_epochs=settings.epochs or DEFAULT_EPOCHS,
        max_steps=settings.max_steps or -1,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        optim="adamw_torch",
        seed=settings.seed,
        logging_steps=10,
        logging_nan_inf_filter=False,
        eval_strategy="epoch" if evaluates else "no",
        metric_for_best_model="loss" if settings.patience else None,
        greater_is_better=False,
        save_strategy="epoch",
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        # Without this, and without a GPU, each process of torchrun would train on its own.
        use_cpu=not torch.accelerator.is_available(),
        log_level="critical",
        log_level_replica="critical",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
    # With several GPUs and one process, the Trainer would use DataParallel, whose replicas do not have the adapter's
    # hooks. To use all GPUs, start one process for each (torchrun).
    made._n_gpu = min(made.n_gpu, 1)
    if made.world_size != (expected := processes.announced()):
        raise InputError(f"WORLD_SIZE={expected}: expected a process group of that size, found {made.world_size}")
    return made


def make_trainer(
    module: nn.Module,
    arguments: TrainingArguments,
    data: Data,
    task: str,
    settings: TrainingSettings,
    callbacks: Iterable[TrainerCallback],
) -> Trainer:
    """Returns a Trainer for an `adapter_module`.

    Args:
        module: The module.
        arguments: The arguments, which get their number of warm-up steps here.
        data: The data.
        task: Name of the task, which decides the metrics.
        settings: Settings of the run.
        callbacks: Callbacks to add.

    Raises:
        InputError: Batches cannot be divided among the processes.
    """
    import torch
    from safetensors.torch import save_file
    from torch.utils.data import DataLoader
    from transformers import PrinterCallback, Trainer

    order = EpochBatchSampler(
        data.train.lengths,
        settings.batch_size,
        seed=settings.seed,
        parts=settings.gradient_accumulation,
        rank=arguments.process_index,
        processes=arguments.world_size,
    )
    updates = settings.max_steps or order.updates * (settings.epochs or DEFAULT_EPOCHS)
    arguments.warmup_steps = int(WARMUP_FRACTION * updates)

    class EpochLoader(DataLoader[Any]):
        def set_epoch(self, epoch: int) -> None:
            order.set_epoch(epoch)

    class AdapterTrainer(Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> DataLoader[Any]:
            return EpochLoader(data.train.rows, batch_sampler=order, collate_fn=data.collate)  # type: ignore[arg-type]

        def prediction_step(
            self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
        ) -> tuple[None, torch.Tensor, torch.Tensor]:
            """Returns `row_statistics` in place of logits and labels, for any vocabulary size only a few numbers."""
            with torch.no_grad():
                rows = model(**self._prepare_inputs(inputs))["rows"]
            return None, rows, rows

        def _save_checkpoint(self, *arguments: Any, **options: Any) -> None:
            with library_writes(Path(self.args.output_dir)):
                super()._save_checkpoint(*arguments, **options)

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            """Saves the trainable parameters only, as safetensors, without config, tokenizer or pickled arguments."""
            if self.args.should_save:
                folder = Path(output_dir or self.args.output_dir)
                folder.mkdir(parents=True, exist_ok=True)
                state = {name: value.contiguous() for name, value in self.model.state_dict().items()}
                save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    trainer = AdapterTrainer(
        model=module,
        args=arguments,
        train_dataset=data.train.rows,
        eval_dataset=data.evaluation.longest_first() if data.evaluation else None,
        data_collator=data.collate,
        compute_metrics=lambda gathered: METRICS[task](gathered.predictions),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
