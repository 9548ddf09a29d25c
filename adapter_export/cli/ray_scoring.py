"""Scores rows on a Ray cluster, with Ray Data: each of its actors has a session."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

from adapter_export.cli.scoring import Scorer, Scoring, groups
from adapter_export.cli.text_requests import TextRequest
from adapter_export.errors import AdapterExportError, InputError

# Groups in a block, which is what an actor takes at a time, and takes again if it has ended.
_GROUPS_IN_BLOCK = 4


class ScoringActor:
    """What one of Ray's actors does."""

    def __init__(self, scoring: Scoring) -> None:
        """Opens the bundle. An error is returned for each group, since Ray would make the actor again and again.

        Args:
            scoring: How rows are scored.
        """
        self._error = ""
        try:
            self._scorer = Scorer(scoring)
        except AdapterExportError as error:
            self._error = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns the results of a group, or what is wrong with it."""
        lines, error = b"", self._error
        if not error:
            try:
                lines = self._scorer.lines(row["first"], pickle.loads(row["requests"]))
            except AdapterExportError as found:
                error = str(found)
        return {"first": row["first"], "lines": lines, "error": error}


def score_on_ray(
    scoring: Scoring, requests: Iterable[TextRequest], address: str, actors: int | None
) -> Iterator[bytes]:
    """Yields the results of rows, in their order, as lines of JSON.

    Args:
        scoring: How rows are scored. The bundle has the same path on every node.
        requests: The rows.
        address: Address of the cluster, as Ray takes it.
        actors: Number of actors; None for one on each node.

    Raises:
        InputError: There is no cluster, the bundle cannot be opened, or a row cannot be read or answered.
    """
    import ray
    import ray.data

    # Rows are read here, so that errors name their places, whatever the format.
    items = [{"first": first, "requests": pickle.dumps(group)} for first, group in groups(requests)]
    if not items:
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"--ray {address}: no Ray cluster there: {' '.join(str(error).split())[:300]}") from None
    # Below that, it writes the plan of each run, and that there are no progress bars.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        number = actors or sum(node["Alive"] for node in ray.nodes())
        blocks = -(-len(items) // _GROUPS_IN_BLOCK)
        scored = ray.data.from_items(items, override_num_blocks=blocks).map(
            ScoringActor,
            fn_constructor_kwargs={"scoring": scoring},
            compute=ray.data.ActorPoolStrategy(size=min(number, blocks)),
        )
        expected = iter(items)
        for row in scored.iter_rows():
            if row["error"]:
                raise InputError(row["error"])
            if row["first"] != next(expected)["first"]:
                raise RuntimeError(f"rows from {row['first']} on came out of order")
            yield row["lines"]
        if next(expected, None) is not None:
            raise RuntimeError("rows are missing")
    finally:
        ray.shutdown()
