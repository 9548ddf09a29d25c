"""Where the nodes of a graph really ran: ONNX Runtime places each on its own, whatever provider the session names."""

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
from adapter_export.parity.judge import Verdict
from adapter_export.parity.report import Check
from adapter_export.parity.whole_model import WholeModel
from adapter_export.runtime.provider import quiet_options
from adapter_export.runtime.session import AdapterSession

_EXECUTION_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Parts of names of operators that do the arithmetic: one of these elsewhere means that the request was not met. What
# computes shapes may run on the CPU beside a GPU: ONNX Runtime prefers it so.
_ARITHMETIC = ("MatMul", "Gemm", "Conv", "Attention", "Norm", "Softmax", "Gelu")

# Number of nodes by operator, by execution provider.
Placement = Mapping[str, Counter[str]]


def check_provider(
    bundle: Path, provider: str, inputs: Mapping[str, np.ndarray], adapter: str | None = None
) -> tuple[dict[str, float], Check]:
    """Run once under ONNX Runtime's profiler; returns each provider's share of the nodes, and the verdict on them."""
    placement = attempt(profile, bundle, provider, inputs, adapter)
    if isinstance(placement, str):
        return {}, Check("provider", Verdict.FAIL, f"did not run: {placement}")
    total = sum(counts.total() for counts in placement.values())
    return {name: counts.total() / total for name, counts in placement.items()}, judge_placement(provider, placement)


def judge_placement(provider: str, placement: Placement) -> Check:
    """Point 5: all arithmetic ran on the provider asked for."""
    wanted = _EXECUTION_PROVIDERS[provider]
    total = sum(counts.total() for counts in placement.values())
    here = placement.get(wanted, Counter())
    elsewhere = {
        name: {op: count for op, count in counts.items() if any(part in op for part in _ARITHMETIC)}
        for name, counts in placement.items()
        if name != wanted
    }
    strayed = [f"{count} {op} on {name}" for name, counts in elsewhere.items() for op, count in counts.items()]
    worked = any(part in op for op in here for part in _ARITHMETIC)
    share = f"{here.total()} of {total} nodes on {wanted}"
    others = [f"{counts.total()} on {name}" for name, counts in placement.items() if name != wanted]
    if strayed or not worked:
        reason = ", ".join(strayed) or "no arithmetic there"
        return Check("provider", Verdict.FAIL, f"{provider} was asked for, but {share}: {reason}")
    return Check("provider", Verdict.PASS, ", ".join([share, *others]))


def profile(bundle: Path, provider: str, inputs: Mapping[str, np.ndarray], adapter: str | None = None) -> Placement:
    """Placement of every node that one run executed, from the profile ONNX Runtime writes."""
    with tempfile.TemporaryDirectory(prefix="adapter-export-", ignore_cleanup_errors=True) as folder:
        options = quiet_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        # The file is complete when the session is gone.
        with AdapterSession(bundle, provider, options=options, verify=False) as session:
            rows = len(next(iter(inputs.values())))
            WholeModel(session).run(inputs, [adapter] * rows)
            graphs = list(session.manifest.graphs)
        files = sorted(Path(folder).glob("profile*.json"))
        # A file a graph, called after the time it was opened: two may have been written into one.
        found = [read_profile(json.loads(file.read_text(encoding="utf-8"))) for file in files]
        if len([placement for placement in found if placement]) != len(graphs):
            names = " and ".join(graphs)
            raise InputError(f"bundle {bundle}: ONNX Runtime wrote no profile of {names}, so where it ran is not known")
        return _sum(found)


def read_profile(events: list[dict[str, Any]]) -> Placement:
    """Nodes by provider and operator; a node that ran twice counts once."""
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
