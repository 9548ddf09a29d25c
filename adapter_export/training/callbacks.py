"""Callbacks of the Trainer: checkpoints, early stopping, and progress."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adapter_export.errors import InputError
from adapter_export.terminal import console
from adapter_export.training.run_folder import RunFolder
from adapter_export.training.settings import CHECKPOINT_UPDATES, TrainingSettings

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


# Seconds before the first line of progress, and between two lines, where stderr is no terminal.
PATIENCE, BETWEEN = 15.0, 30.0


def stopped_early(history: Sequence[dict[str, float]], patience: int | None) -> bool:
    """Returns whether the last evaluations in a Trainer's log were all no better than an earlier one.

    The result depends on the log alone, which checkpoints hold. So a resumed run stops where the killed run would have.

    Args:
        history: The Trainer's log.
        patience: How many evaluations must be no better; None: never stop early.
    """
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    return patience is not None and len(losses) - 1 - (losses.index(min(losses)) if losses else 0) >= patience


def keeper(settings: TrainingSettings, run_folder: RunFolder) -> TrainerCallback:
    """Returns a callback that asks for checkpoints, marks them as complete, and ends a run early or when it diverges.

    The methods of the callback raise InputError as soon as the loss, or a parameter to be saved, is not finite.

    Args:
        settings: Settings of the run.
        run_folder: The folder for the checkpoints.
    """
    from transformers import TrainerCallback

    def diverged(step: int) -> InputError:
        return InputError(
            f"training diverged: no finite numbers after {step} updates; lower --learning-rate "
            f"(it was {settings.learning_rate:g})"
        )

    class Keeper(TrainerCallback):  # type: ignore[misc]
        def on_step_end(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            train_dataloader: Any = None,
            **_: Any,
        ) -> None:
            # At an epoch's end the evaluation comes first: a checkpoint from before it would lose it on resuming.
            updates_an_epoch = len(train_dataloader) // args.gradient_accumulation_steps
            if state.global_step % CHECKPOINT_UPDATES == 0 and state.global_step % updates_an_epoch != 0:
                control.should_save = state.global_step < state.max_steps
            control.should_log |= state.global_step >= state.max_steps

        def on_log(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
        ) -> None:
            if not all(math.isfinite(logs.get(name, 0.0)) for name in ("loss", "grad_norm", "eval_loss")):
                raise diverged(state.global_step)

        def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
            control.should_training_stop |= stopped_early(state.log_history, settings.patience)

        def on_save(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
        ) -> None:
            if not all(value.isfinite().all() for value in model.state_dict().values()):
                raise diverged(state.global_step)
            args.distributed_state.wait_for_everyone()
            if state.is_world_process_zero:
                run_folder.mark_complete(state.global_step)

    return Keeper()


def progress_lines() -> TrainerCallback:
    """Returns a callback that prints a line on stderr every half minute, the first after PATIENCE seconds."""
    from transformers import TrainerCallback

    class Lines(TrainerCallback):  # type: ignore[misc]
        due = time.monotonic() + PATIENCE
        loss = ""

        def on_log(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
        ) -> None:
            self.loss = f", loss {logs['loss']:.4g}" if "loss" in logs else self.loss

        def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
            if time.monotonic() >= self.due:
                self.due = time.monotonic() + BETWEEN
                sys.stderr.write(f"train: {state.global_step} of {state.max_steps} updates{self.loss}\n")
                sys.stderr.flush()

    return Lines()


@contextmanager
def progress_shown() -> Iterator[TrainerCallback]:
    """Yields a callback that shows the progress: a bar where stderr is a terminal, and lines now and then elsewhere."""
    if not sys.stderr.isatty():
        yield progress_lines()
        return
    with progress_bar() as bar:
        yield bar


@contextmanager
def progress_bar() -> Iterator[TrainerCallback]:
    """Yields a callback that draws a bar on stderr until the `with` statement ends."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from transformers import TrainerCallback

    notes: dict[str, float] = {}

    class Bar(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
        ) -> None:
            bar.update(task, total=state.max_steps, completed=state.global_step)

        def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
            bar.update(task, completed=state.global_step)

        def on_log(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
        ) -> None:
            shown = ("loss", "eval_accuracy", "eval_macro_f1", "eval_perplexity")
            notes.update({name: logs[name] for name in shown if name in logs})
            text = "  ".join(f"{name.removeprefix('eval_').replace('_', ' ')} {n:.4g}" for name, n in notes.items())
            bar.update(task, note=text)

    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console(stderr=True)) as bar:
        task = bar.add_task("", total=None, note="")
        yield Bar()
