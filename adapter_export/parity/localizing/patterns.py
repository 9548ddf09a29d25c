"""Causes that the numbers of all cases show, without the values inside of the graph."""

from __future__ import annotations

import re
from collections.abc import Callable

from adapter_export.parity.cases import GreedyCase, ParityCase
from adapter_export.parity.criteria import quantized
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.localizing.departure import ParityCause
from adapter_export.parity.report import ParityReport, ParityResult

GENERATION = ParityCause(
    "generation",
    "only texts that the runtime generates are wrong; the graph is right in every other case",
    "compare generation_config.json with that of the model, then report it with this bundle",
)
NOT_REPEATED = ParityCause(
    "optimization",
    "all values agree when they are read, so a node that ONNX Runtime fuses or removes is wrong",
    "run the case with graph_optimization_level ORT_DISABLE_ALL; if it agrees, report it to ONNX Runtime",
)
COST = ParityCause(
    "cost of the bits",
    "PyTorch with the same weights is as far from the model as the graph is: the bits are too few for this model, or "
    "a graft holds the weights of another one",
    "measure the quality on real text; use more bits (--quantize int8), or compare a graft's weights (graft --model)",
)
SHAPE = ParityCause(
    "shape",
    "the output has another shape than that of PyTorch",
    "compare the class names of the adapter with those of its checkpoint, then export the bundle again",
)
_NODE = re.compile(r"(?:Name:|name: ?|node )'([^']+)'")


def not_run(message: str) -> tuple[str | None, ParityCause]:
    """Returns the node at which ONNX Runtime stopped, if its message tells it, and the cause."""
    match = _NODE.search(message)
    return match.group(1) if match else None, ParityCause(
        "did not run", message, "export the bundle again, or `adapter-export add` the adapter again from its checkpoint"
    )


def read_otherwise(check: str) -> ParityCause:
    """Returns the cause if a check shows that our own model is not that of the other library."""
    return ParityCause(
        "reading",
        f"the model or the checkpoint is read otherwise than by its own library; the check {check!r} says where",
        "report it with the checkpoint; no graph can be right that is made by such a reading",
    )


def costs_only(item: ParityResult) -> bool:
    """Whether the bits of quantized weights cost too much, and no single case has an error that PyTorch has not.

    The change by an adapter says nothing beside such costs, as it is measured through them.
    """
    reasons = item.judgement.reasons
    return any(quantized.COST in reason for reason in reasons) and all(
        quantized.ALL_CASES in reason for reason in reasons
    )


def pattern_of(report: ParityReport, item: ParityResult) -> ParityCause | None:
    """Returns a cause that explains which cases of an adapter failed and which did not; None if there is none."""
    wrong: set[ParityCase] = set()
    right: set[ParityCase] = set()
    for other in report.of(item.adapter):
        if other.output == item.output and not isinstance(other.case, GreedyCase):
            (wrong if other.judgement.verdict is Verdict.FAIL else right).add(other.case)

    def separates(is_wrong: Callable[[ParityCase], bool]) -> bool:
        return bool(right) and all(map(is_wrong, wrong)) and not any(map(is_wrong, right))

    if separates(lambda case: case.padded):
        return ParityCause(
            "mask",
            "every case with padding fails, and no other case",
            "check that the graph reads attention_mask at the node above, and that padding is on the side it expects",
        )
    longest = max((case.length for case in right), default=0)
    # With one token attention has nothing to choose from, so some mistakes cannot show there.
    if longest > 1 and separates(lambda case: case.length > longest):
        return ParityCause(
            "length",
            f"every text of more than {longest} tokens fails, and no shorter one",
            "look for a length that was fixed when the graph was traced, at the node above",
        )
    batches = {case.batch for case in right}
    if separates(lambda case: case.batch not in batches):
        return ParityCause(
            "batch",
            f"only batches of size {', '.join(map(str, sorted(batches)))} are right",
            "look for a batch size that was fixed when the graph was traced, at the node above",
        )
    return None
