"""Which law a bundle is judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from adapter_export.bundle.manifest import Manifest
from adapter_export.parity.judge import LIMITS, Judgement, judge, nearly_right
from adapter_export.parity.measure import Measure
from adapter_export.parity.quantized import by_chance, judge_quantized

Picks = Callable[[Sequence[Measure]], list[bool]]


@dataclass(frozen=True)
class Law:
    """All of them take the cases of one output of one adapter. judge: a judgement for each. unlucky: which to look at
    again, with T rounded in more ways. hidden: which say nothing even so."""

    judge: Callable[[Sequence[Measure]], list[Judgement]]
    unlucky: Picks
    hidden: Picks


def law_of(manifest: Manifest) -> Law:
    """By the precision of the bundle's graph."""
    if manifest.quantize != "none":
        return Law(judge_quantized, by_chance, lambda measures: [False for _ in measures])
    limits = LIMITS[manifest.dtype]
    return Law(
        partial(judge, limits=limits),
        partial(nearly_right, limits=limits, failed=True),
        partial(nearly_right, limits=limits, failed=False),
    )
