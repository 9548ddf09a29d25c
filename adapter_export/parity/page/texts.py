"""Numbers and verdicts as the page writes them."""

from __future__ import annotations

from adapter_export.bundle.manifest import Manifest
from adapter_export.pages.parts import Word
from adapter_export.parity.criteria.judge import Judgement, Verdict
from adapter_export.parity.criteria.measure import Deviation


def number(value: float | None) -> str:
    """Returns a number with two digits; a dash for None."""
    return "\u2013" if value is None else f"{value:.1e}"


def plural(count: int, noun: str) -> str:
    """Returns a count with its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def word(verdict: Verdict) -> Word:
    """Returns a verdict as the cell of a table."""
    return Word(verdict.value, verdict.value)


def judged_by_means(manifest: Manifest | None) -> bool:
    """Returns whether mean errors are judged, in place of the largest ones: those of graphs in few bits."""
    return manifest is not None and manifest.quantize.used


def judged_error(judgement: Judgement, means: bool) -> float | None:
    """Returns e(O) as it is judged.

    Args:
        judgement: The judgement on one output of one case.
        means: Whether means are judged.
    """
    return _of(judgement.error, means)


def judged_target_error(judgement: Judgement, means: bool) -> float | None:
    """Returns e(T) as it is judged; see `judged_error`."""
    return _of(judgement.target_error, means)


def _of(error: Deviation | None, means: bool) -> float | None:
    if error is None:
        return None
    return error.mean if means else error.max
