"""Exports of one tiny model trace it once in a process: in every mode, the same trace is lowered.

A trace takes most of the time of an export, and depends on nothing but what its key has. Tests of tracing call `trace`
itself, and a lowering that changed its trace would show in the next mode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from adapter_export.export import modes
from adapter_export.export.stage import StageOf
from adapter_export.export.target import Target
from adapter_export.export.trace import FP32, Trace, trace
from adapter_export.methods.contract import Operator
from adapter_export.models.base_model import BaseModel
from adapter_export.sites import Site

# Larger models are not kept in memory.
_MOST_PARAMETERS = 1_000_000


@pytest.fixture(scope="session", autouse=True)
def shared_traces() -> Iterator[None]:
    traces: dict[str, Trace] = {}

    def shared(
        base: BaseModel,
        sites: Mapping[Site, Sequence[Operator]],
        head: Sequence[str],
        opset: int,
        *,
        stage: StageOf,
        target: Target = FP32,
    ) -> Trace:
        def traced() -> Trace:
            return trace(base, sites, head, opset, stage=stage, target=target)

        if sum(parameter.numel() for parameter in base.module.parameters()) > _MOST_PARAMETERS:
            return traced()
        key = _digest(base, [*sites.items()], [*head], opset, stage.__qualname__, target)
        if key not in traces:
            traces[key] = traced()
        return traces[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modes, "trace", shared)
        yield


def _digest(base: BaseModel, *choices: Any) -> str:
    import torch

    digest = hashlib.sha256(repr((base.info, base.task, type(base.module), base.module.config.to_dict())).encode())
    digest.update(repr(choices).encode())
    for name, tensor in base.module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(
            tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()
            if tensor.ndim
            else repr(tensor.item()).encode()
        )
    return digest.hexdigest()
