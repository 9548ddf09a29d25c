"""The endpoint for embeddings of texts."""

from __future__ import annotations

import asyncio
import base64

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from adapter_export import tasks
from adapter_export.bundle.pooling import Pooling, PoolingKind
from adapter_export.errors import InputError
from adapter_export.serving.bodies import parsed
from adapter_export.serving.names import adapter_of
from adapter_export.serving.openai.schema import EmbeddingRequest
from adapter_export.serving.problems import Problem
from adapter_export.serving.service import Service, note, service_of
from adapter_export.serving.waiting import unless_gone


async def embeddings(request: Request) -> Response:
    """Returns the embedding of each text, as the model's pooling says."""
    service = service_of(request)
    asked = parsed(EmbeddingRequest, await request.body())
    engine, manifest = service.engine, service.engine.session.manifest
    adapter = adapter_of(engine.session, asked.model)
    note(request, model=asked.model)
    if manifest.pooling is None:
        raise Problem(404, "embeddings: the bundle's manifest names no pooling")
    rows, cut = await asyncio.to_thread(_rows, service, asked)
    if cut:
        raise Problem(400, f"input: a text has more than {engine.encoder and engine.encoder.max_length} tokens")
    found = await unless_gone(request, engine.run(rows, adapter), service.settings.seconds)
    output = tasks.get(manifest.task).output
    vectors = [pooled(row[output], manifest.pooling) for row in found]
    if asked.dimensions not in (None, len(vectors[0])):
        raise Problem(400, f"dimensions: expected {len(vectors[0])}, found {asked.dimensions}", param="dimensions")
    data = [
        {"object": "embedding", "index": number, "embedding": _written(vector, asked.encoding_format)}
        for number, vector in enumerate(vectors)
    ]
    tokens = sum(len(row["input_ids"]) for row in rows)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": asked.model, "usage": usage})


def pooled(hidden: np.ndarray, pooling: Pooling) -> np.ndarray:
    """Returns the embedding of one text.

    Args:
        hidden: Hidden states [tokens, d] of the text, without padding.
        pooling: What the embedding is made of.

    Returns:
        The embedding [d], float32.
    """
    wide = hidden.astype(np.float64)
    vector = wide[0] if pooling.kind is PoolingKind.CLS else wide.mean(axis=0)
    if pooling.normalize:
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    result: np.ndarray = vector.astype(np.float32)
    return result


def _rows(service: Service, asked: EmbeddingRequest) -> tuple[list[dict[str, np.ndarray]], bool]:
    """Returns the inputs of each text, and whether one of them had to be cut."""
    engine = service.engine
    if engine.encoder is None or engine.batcher is None:
        raise Problem(400, "input: this bundle does not read texts", param="input")
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    engine.check_rows(len(texts))
    try:
        encoded = [engine.encoder.encode([text]) for text in texts]
    except InputError as error:
        raise Problem(400, f"input: {error}", param="input") from None
    rows = [{name: value[0] for name, value in one.inputs.items()} for one in encoded]
    return rows, any(one.truncated[0] for one in encoded)


def _written(vector: np.ndarray, form: str) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    values: list[float] = vector.tolist()
    return values
