"""Checks on which execution provider the nodes of a graph ran.

ONNX Runtime assigns every node separately, so a session for CUDA may run nodes on the CPU. Its profile of a run shows
where each node ran.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.errors import InputError
from adapter_export.parity.bundle_runner import attempt
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.report import ParityCheck
from adapter_export.parity.whole_model import WholeModel
from adapter_export.providers import Provider
from adapter_export.runtime.provider import quiet_options
from adapter_export.runtime.session import AdapterSession

# Parts of the names of operators that do the arithmetic. The check fails if such an operator runs on another provider
# than the requested one. Operators that compute shapes may run on the CPU in a session for CUDA: ONNX Runtime
# prefers that.
_ARITHMETIC = ("MatMul", "Gemm", "Conv", "Attention", "Norm", "Softmax", "Gelu")

# By execution provider: the number of nodes by operator.
Placement = Mapping[str, Counter[str]]


def check_provider(
    bundle: Path, provider: str, inputs: Mapping[str, np.ndarray], adapter: str | None = None
) -> tuple[dict[str, float], ParityCheck]:
    """Runs the bundle once with ONNX Runtime's profiler.

    Args:
        bundle: Folder of the bundle.
        provider: The requested provider, `cpu` or `cuda`.
        inputs: Arrays by name.
        adapter: The adapter to run with; None for no adapter.

    Returns:
        The share of the nodes by execution provider, from 0 to 1, and the check.
    """
    placement = attempt(profile, bundle, provider, inputs, adapter)
    if isinstance(placement, str):
        return {}, ParityCheck("provider", Verdict.FAIL, f"did not run: {placement}")
    total = sum(counts.total() for counts in placement.values())
    return {name: counts.total() / total for name, counts in placement.items()}, judge_placement(provider, placement)


def judge_placement(provider: str, placement: Placement) -> ParityCheck:
    """Checks point 5: all arithmetic ran on the requested provider."""
    requested = Provider.parse(provider, "provider").execution_provider
    total = sum(counts.total() for counts in placement.values())
    requested_nodes = placement.get(requested, Counter())
    arithmetic_elsewhere = {
        name: {op: count for op, count in counts.items() if any(part in op for part in _ARITHMETIC)}
        for name, counts in placement.items()
        if name != requested
    }
    misplaced = [
        f"{count} {op} on {name}" for name, counts in arithmetic_elsewhere.items() for op, count in counts.items()
    ]
    has_arithmetic = any(part in op for op in requested_nodes for part in _ARITHMETIC)
    share = f"{requested_nodes.total()} of {total} nodes on {requested}"
    others = [f"{counts.total()} on {name}" for name, counts in placement.items() if name != requested]
    if misplaced or not has_arithmetic:
        reason = ", ".join(misplaced) or "no arithmetic there"
        return ParityCheck("provider", Verdict.FAIL, f"{provider} was asked for, but {share}: {reason}")
    return ParityCheck("provider", Verdict.PASS, ", ".join([share, *others]))


def profile(bundle: Path, provider: str, inputs: Mapping[str, np.ndarray], adapter: str | None = None) -> Placement:
    """Returns where each node of one run was executed, from ONNX Runtime's profile.

    Args:
        bundle: Folder of the bundle.
        provider: The requested provider, `cpu` or `cuda`.
        inputs: Arrays by name.
        adapter: The adapter to run with; None for no adapter.

    Raises:
        InputError: The profile of a graph of the bundle is missing.
    """
    with tempfile.TemporaryDirectory(prefix="adapter-export-", ignore_cleanup_errors=True) as folder:
        options = quiet_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        # The file of the profile is complete after the session is closed.
        with AdapterSession(bundle, provider=provider, options=options, verify=False) as session:
            rows = len(next(iter(inputs.values())))
            WholeModel(session).run(inputs, [adapter] * rows)
            graphs = list(session.manifest.graphs)
        files = sorted(Path(folder).glob("profile*.json"))
        # There is one file per graph.
        placements = [read_profile(json.loads(file.read_text(encoding="utf-8"))) for file in files]
        if len([placement for placement in placements if placement]) != len(graphs):
            names = " and ".join(graphs)
            raise InputError(f"bundle {bundle}: ONNX Runtime wrote no profile of {names}, so where it ran is not known")
        return _sum(placements)


def read_profile(events: list[dict[str, Any]]) -> Placement:
    """Counts the nodes of a profile by provider and operator. A node that ran twice counts once."""
    nodes = {
        event["name"]: (event["args"]["provider"], event["args"]["op_name"])
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    }
    placement: dict[str, Counter[str]] = {}
    for name, op in nodes.values():
        placement.setdefault(name, Counter())[op] += 1
    return placement


def _sum(placements: Sequence[Placement]) -> Placement:
    total: dict[str, Counter[str]] = {}
    for placement in placements:
        for name, counts in placement.items():
            total.setdefault(name, Counter()).update(counts)
    return total
