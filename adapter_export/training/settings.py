"""How a training run goes: what a caller chooses, and what is fixed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from adapter_export.errors import InputError

# Of the run, as in Liu et al. 2022: the learning rate rises over the first 6% of the updates, then falls to zero.
WARMUP_FRACTION = 0.06
# Updates between two checkpoints, besides those at each epoch's end: what a killed run loses at most.
CHECKPOINT_UPDATES = 50
DEFAULT_EPOCHS = 4


@dataclass(frozen=True)
class TrainingSettings:
    """One training run.

    learning_rate: its peak. batch_size: examples an update, over all processes and accumulation steps together; so the
    result does not depend on how many of those there are. max_steps: updates, instead of epochs. gradient_accumulation:
    forward passes that an update is divided into. patience: end when the evaluation loss has not improved for so many
    epochs, and keep the best. Raises InputError for a value out of range.
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
