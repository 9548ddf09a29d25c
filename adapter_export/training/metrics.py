"""The metrics of an evaluation, exact for any batch size, padding and number of processes.

A forward pass gives a few numbers for each row of the batch. The rows of all batches and processes are gathered first,
and averaged only then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# The label of positions that do not count.
IGNORED = -100


def row_statistics(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns for each row, in columns: sum of -log p(label), number of labels, predicted class, true class.

    Args:
        logits: (B, n) or (B, T, n).
        labels: (B,) or (B, T), aligned with the logits; IGNORED where there is no label.

    Returns:
        Shape (B, 4). The last two columns are of the first position of a row, and mean nothing for texts.
    """
    import torch
    from torch.nn.functional import cross_entropy

    if labels.ndim == 1:
        logits, labels = logits[:, None], labels[:, None]
    loss = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none")
    counted = (labels != IGNORED).sum(1)
    predicted = logits.detach()[:, 0].argmax(-1)
    return torch.stack([loss.view(labels.shape).sum(1), counted, predicted, labels[:, 0]], dim=1)


def classification_metrics(rows: np.ndarray) -> dict[str, float]:
    """Returns loss, accuracy and macro F1 of gathered `row_statistics`.

    F1 of a class = 2 tp / (2 tp + fp + fn). Macro F1 is its mean over the classes that occur as label or as prediction.
    """
    predicted, true = rows[:, 2].astype(int), rows[:, 3].astype(int)
    hits = predicted == true
    scores = [
        2 * np.sum(hits & (true == c)) / (np.sum(predicted == c) + np.sum(true == c))
        for c in np.union1d(predicted, true)
    ]
    return {"loss": _mean_loss(rows), "accuracy": float(hits.mean()), "macro_f1": float(np.mean(scores))}


def language_metrics(rows: np.ndarray) -> dict[str, float]:
    """Returns the loss, which is the mean of -log p over all tokens, and the perplexity exp(loss).

    Args:
        rows: Gathered `row_statistics`.
    """
    loss = _mean_loss(rows)
    try:
        return {"loss": loss, "perplexity": math.exp(loss)}
    except OverflowError:
        return {"loss": loss, "perplexity": math.inf}


METRICS: Mapping[str, Callable[[np.ndarray], dict[str, float]]] = {
    "text-classification": classification_metrics,
    "causal-lm": language_metrics,
    "seq2seq-lm": language_metrics,
}


def _mean_loss(rows: np.ndarray) -> float:
    return float(rows[:, 0].sum(dtype=np.float64) / max(1.0, rows[:, 1].sum(dtype=np.float64)))
