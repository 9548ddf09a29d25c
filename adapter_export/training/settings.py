"""Settings of a training run: those that the caller chooses, and those that are fixed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from adapter_export.errors import InputError

# Over this fraction of the updates the learning rate rises; then it falls to zero. From Liu et al. 2022.
WARMUP_FRACTION = 0.06
# Updates between two checkpoints, in addition to the one at the end of each epoch. A killed run loses at most this
# many.
CHECKPOINT_UPDATES = 50
DEFAULT_EPOCHS = 4


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of one training run.

    Attributes:
        learning_rate: The highest learning rate.
        batch_size: Examples of an update, over all processes and accumulation steps together. So the result does not
            depend on the number of processes or steps.
        epochs: Passes over the data; None: DEFAULT_EPOCHS.
        max_steps: Number of updates, in place of `epochs`.
        gradient_accumulation: Number of forward passes that an update is divided into.
        patience: If the evaluation loss has not improved for this many epochs, training ends and keeps the best state.
            None: never.
        seed: Seed of all random numbers.

    Raises:
        InputError: A value is out of range.
    """

    learning_rate: float
    batch_size: int = 32
    epochs: int | None = None
    max_steps: int | None = None
    gradient_accumulation: int = 1
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs is not None and self.max_steps is not None:
            raise InputError("--epochs and --max-steps: expected one of them, found both")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"--learning-rate {self.learning_rate}: expected a number above 0")
        for name in ("batch_size", "epochs", "max_steps", "gradient_accumulation", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = "early-stopping" if name == "patience" else name.replace("_", "-")
                raise InputError(f"--{option} {value}: expected a whole number above 0")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed}: expected a whole number from 0 to {2**32 - 1}")
