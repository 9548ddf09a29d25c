"""The processes that `torchrun` starts, read from the environment variables that it sets."""

from __future__ import annotations

import os


def announced() -> int:
    """Returns how many processes train together; 1 without `torchrun`."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Returns whether this is the process that writes files and prints."""
    return announced() == 1 or os.environ.get("RANK", "0") == "0"


def leave() -> None:
    """Leaves the process group, if there is one, as a program should before it ends."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
