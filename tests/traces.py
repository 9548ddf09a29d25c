"""Exports of one tiny model trace it once in a run: in every mode, the same trace is lowered.

A trace takes most of the time of an export, and depends on nothing but what its key has. Tests of tracing call `trace`
itself, and a lowering that changed its trace would show in the next mode.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from adapter_export.export import modes
from adapter_export.export.stage import StageOf
from adapter_export.export.target import Target
from adapter_export.export.trace import FP32, Trace, trace
from adapter_export.methods.contract import Operator
from adapter_export.models.base_model import BaseModel
from adapter_export.sites import Site

# Larger models are not kept.
_MOST_PARAMETERS = 1_000_000


@pytest.fixture(scope="session", autouse=True)
def shared_traces(shared_folder: Path) -> Iterator[None]:
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
        file = shared_folder / f"{_digest(base, [*sites.items()], [*head], opset, stage.__qualname__, target)}.trace"
        if not file.exists():
            _write(file, traced())
        return _read(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modes, "trace", shared)
        yield


def _write(file: Path, traced: Trace) -> None:
    import onnx_ir as ir

    model = ir.serde.serialize_model(traced.model).SerializeToString()
    # Other processes of the run find a whole file or none.
    own = file.with_suffix(f".{os.getpid()}")
    own.write_bytes(json.dumps({**traced.axes}).encode() + b"\n" + model)
    own.replace(file)


def _read(file: Path) -> Trace:
    import onnx
    import onnx_ir as ir

    axes, _, model = file.read_bytes().partition(b"\n")
    named = {name: {int(axis): text for axis, text in of.items()} for name, of in json.loads(axes).items()}
    return Trace(ir.serde.deserialize_model(onnx.ModelProto.FromString(model)), named)


def _digest(base: BaseModel, *choices: Any) -> str:
    import torch

    config = {name: value for name, value in base.module.config.to_dict().items() if name != "_name_or_path"}
    digest = hashlib.sha256(repr((base.info, base.task, type(base.module), config)).encode())
    digest.update(repr(choices).encode())
    for name, tensor in base.module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(
            tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()
            if tensor.ndim
            else repr(tensor.item()).encode()
        )
    return digest.hexdigest()
