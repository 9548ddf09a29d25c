"""How goldens are kept in one small file: all arrays as one float32 vector, with an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def unpacked(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the file says of itself, and its arrays by name, in the order of the index."""
    with np.load(path) as file:
        about, values = json.loads(file["about"].tobytes()), file["values"]
    arrays = {
        name: values[start : start + int(np.prod(shape))].reshape(shape)
        for name, (start, shape) in about["index"].items()
    }
    return about, arrays
