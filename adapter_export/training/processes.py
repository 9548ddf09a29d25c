"""The processes that `torchrun` starts, as it announces them to each in the environment."""

from __future__ import annotations

import os


def announced() -> int:
    """How many processes train together; 1 without `torchrun`."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return announced() == 1 or os.environ.get("RANK", "0") == "0"


def leave() -> None:
    """Leave the process group, as a program should before it ends; nothing without one."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
