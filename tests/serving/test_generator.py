"""An encoder-decoder behind the server: rows one after the other, with the tokens of `session.generate`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from adapter_export.errors import InputError, Unavailable
from adapter_export.runtime.session import AdapterSession
from adapter_export.serving.generator import OneByOne
from tests.bundles import Exported
from tests.served import serving

PROMPT = [5, 9, 12, 7]


@pytest.fixture(scope="module")
def session(t5_bundle: Exported) -> Iterator[AdapterSession]:
    with AdapterSession(t5_bundle.bundle) as opened:
        yield opened


def alone(session: AdapterSession, adapter: str | None, new: int) -> tuple[int, ...]:
    return session.generate([PROMPT], adapter, max_new_tokens=new, ignore_eos=True).completions()[0].tokens


def test_rows_in_turn(session: AdapterSession) -> None:
    generator = OneByOne(session)
    asked = [(adapter, new) for new in (3, 8) for adapter in (None, "ia3", "houlsby")]
    streams = [generator.submit(PROMPT, a, max_new_tokens=n, ignore_eos=True, logprobs=2) for a, n in asked]
    for stream, (adapter, new) in zip(streams, asked, strict=True):
        found = list(stream)
        assert tuple(one.token for one in found) == alone(session, adapter, new)
        assert all(one.logprob is not None and one.logprob <= one.top[0][1] for one in found)
    assert generator.statistics().tokens == 3 * (3 + 8)
    generator.close()
    with pytest.raises(Unavailable, match="closed"):
        generator.submit(PROMPT, max_new_tokens=1)


def test_a_stream_that_is_closed_lets_the_next_begin(session: AdapterSession) -> None:
    generator = OneByOne(session, max_queue=1)
    first = generator.submit(PROMPT, "ia3", max_new_tokens=90, ignore_eos=True)
    next(first)
    second = generator.submit(PROMPT, max_new_tokens=2, ignore_eos=True)
    with pytest.raises(Unavailable, match="1 rows wait already"):
        generator.submit(PROMPT, max_new_tokens=1)
    first.close()
    assert tuple(one.token for one in second) == alone(session, None, 2)
    generator.close()


def test_what_is_wrong_is_told_at_once(session: AdapterSession) -> None:
    generator = OneByOne(session)
    with pytest.raises(InputError, match="prompt 0: expected tokens"):
        generator.submit([-4], max_new_tokens=1)
    generator.close()


def test_over_http(t5_bundle: Exported, session: AdapterSession) -> None:
    body = {"model": "ia3", "prompt": PROMPT, "max_tokens": 6, "temperature": 0}
    with serving(t5_bundle.bundle) as client, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/completions", body), range(4)))
        assert [answer.status for answer in answers] == [200] * 4
        texts = {json.dumps(answer.json["choices"]) for answer in answers}
        assert len(texts) == 1
        assert client.get("/v2/models/ia3").json["outputs"] == [
            {"name": "logits", "datatype": "FP32", "shape": [-1, -1, session.manifest.outputs["logits"].shape[-1]]}
        ]
