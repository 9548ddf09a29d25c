"""What the outputs of a bundle say about texts: labels with their probabilities, embeddings, next tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adapter_export import tasks
from adapter_export.checkpoints.problem_types import MULTI, REGRESSION
from adapter_export.cli.batches import BATCH, batches, ran_with
from adapter_export.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from adapter_export.runtime.adapters.choice import AdapterKey
    from adapter_export.runtime.session import AdapterSession
    from adapter_export.runtime.text import TextEncoder

# Next tokens of a language model.
_NEXT = 5
# Of independent classes, those above this probability hold.
LIKELY = 0.5


def check_answerable(session: AdapterSession, adapter: AdapterKey | None) -> None:
    """Raises InputError if the bundle has no such adapter, or if it has no labels where its task needs them."""
    labels = session.labels(adapter)  # raises for an adapter that is not there
    if tasks.get(session.manifest.task).labelled and labels is None:
        raise InputError(
            f"bundle {session.bundle}: its base model has no labels of its own; choose an adapter with --adapter "
            f"({', '.join(session.adapters)})"
        )


def answers(
    session: AdapterSession, encoder: TextEncoder, requests: Sequence[tuple[str, AdapterKey | None]]
) -> list[dict[str, Any]]:
    """Returns one result for each text, in their order.

    Args:
        session: The session of a bundle that does not generate.
        encoder: Its tokenizer.
        requests: Texts, each with its adapter; None for the base model.

    Raises:
        InputError: A text has no tokens, or an adapter is not there.
    """
    from adapter_export.runtime.text import at_last_token, mean_pooled

    results: dict[int, dict[str, Any]] = {}
    task = session.manifest.task
    adapters = [adapter for _, adapter in requests]
    for batch in batches(session, adapters, BATCH if encoder.pad_id is not None else 1):
        encoded = encoder.encode([requests[index][0] for index in batch])
        rows = session.run_rows(encoded.inputs, [adapters[index] for index in batch])
        for row, index in enumerate(batch):
            mask, output = encoded.mask[row : row + 1], rows[row][tasks.get(task).output][None]
            if task == "features":
                answer = _features(mean_pooled(output, mask)[0], int(mask.sum()))
            elif tasks.get(task).labelled:
                labels, meant = session.labels(adapters[index]), session.problem_type(adapters[index])
                answer = _label(labels or (), output[0], str(meant))
            else:
                answer = _next(encoder, at_last_token(output, mask))
            results[index] = {
                "text": requests[index][0],
                **ran_with(session, adapters[index]),
                "tokens": int(mask.sum()),
                "truncated": encoded.truncated[row],
                **answer,
            }
    return [results[index] for index in range(len(requests))]


def _features(mean: np.ndarray, tokens: int) -> dict[str, Any]:
    return {"shape": [tokens, len(mean)], "norm": float((mean**2).sum() ** 0.5), "embedding": mean.tolist()}


def _label(labels: Sequence[str], logits: np.ndarray, problem_type: str) -> dict[str, Any]:
    """What logits [labels] say: `values` of a regression, else `probabilities`, by label, and in short `label` with its
    `value` or `probability`, or of independent classes the `labels` that are more likely than not."""
    from adapter_export.runtime.text import probabilities

    if problem_type == REGRESSION:
        values = dict(zip(labels, map(float, logits), strict=True))
        short = {"label": labels[0], "value": values[labels[0]]} if len(labels) == 1 else {}
        return {"problem_type": problem_type, **short, "values": values}
    found = dict(zip(labels, map(float, probabilities(logits, problem_type=problem_type)), strict=True))
    if problem_type == MULTI:
        chosen = {"labels": [label for label, value in found.items() if value > LIKELY]}
        return {"problem_type": problem_type, **chosen, "probabilities": found}
    best = max(found, key=lambda label: found[label])
    return {"problem_type": problem_type, "label": best, "probability": found[best], "probabilities": found}


def _next(encoder: TextEncoder, logits: np.ndarray) -> dict[str, Any]:
    from adapter_export.runtime.text import probabilities

    (row,) = probabilities(logits)
    best = (-row).argsort()[:_NEXT]
    return {"next": [{"token": encoder.decode(int(i)), "probability": float(row[i])} for i in best]}
