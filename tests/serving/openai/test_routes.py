"""OpenAI's API against the session itself: texts, streams, probabilities, ends, and every refusal."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from adapter_export.runtime.generation.texts import PromptTexts
from adapter_export.runtime.session import AdapterSession
from tests.served import Client

PROMPT = "the cat sat on"
GREEDY = {"temperature": 0, "max_tokens": 9}


def expected(session: AdapterSession, adapter: str | None, prompt: str = PROMPT, new: int = 9) -> tuple[str, str]:
    """The text of a greedy completion, and why it ended."""
    texts = PromptTexts(session.bundle)
    ids = texts.encode(prompt)
    (row,) = session.generate([ids], adapter, max_new_tokens=new).completions()
    return texts.completion(ids, row.tokens), str(row.finish)


def complete(client: Client, **more: Any) -> Any:
    answer = client.post("/v1/completions", {"model": "ia3", "prompt": PROMPT, **GREEDY, **more})
    assert answer.status == 200, answer.body
    return answer.json


class TestCompletions:
    @pytest.mark.parametrize("model", ["base", "ia3", "houlsby"])
    def test_the_text_of_each_model(self, writers: Client, writing: AdapterSession, model: str) -> None:
        found = complete(writers, model=model)
        text, finish = expected(writing, None if model == "base" else model)
        assert found["choices"] == [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]
        assert (found["object"], found["model"]) == ("text_completion", model)
        assert found["id"].startswith("cmpl-")
        assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] + found["usage"]["completion_tokens"]

    def test_several_prompts_and_several_answers(self, writers: Client, writing: AdapterSession) -> None:
        found = complete(writers, prompt=["the cat", "a dog ran"], n=2)
        texts = [expected(writing, "ia3", prompt)[0] for prompt in ("the cat", "a dog ran")]
        assert [choice["text"] for choice in found["choices"]] == [texts[0], texts[0], texts[1], texts[1]]
        assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]

    def test_tokens_in_place_of_a_text(self, writers: Client, writing: AdapterSession) -> None:
        ids = PromptTexts(writing.bundle).encode(PROMPT)
        assert complete(writers, prompt=ids)["choices"] == complete(writers)["choices"]
        assert complete(writers, prompt=[ids, ids])["choices"][1]["text"] == complete(writers)["choices"][0]["text"]

    def test_a_stream_has_the_same_text(self, writers: Client) -> None:
        asked = {"model": "houlsby", "prompt": PROMPT, **GREEDY, "stream": True, "n": 2}
        options = {"stream_options": {"include_usage": True}}
        answer = writers.post("/v1/completions", {**asked, **options})
        assert answer.headers["content-type"].startswith("text/event-stream")
        *events, last = answer.events
        whole = complete(writers, model="houlsby", n=2)
        for number in range(2):
            parts = [event["choices"][0] for event in events if event["choices"][0]["index"] == number]
            assert "".join(part["text"] for part in parts) == whole["choices"][number]["text"]
            assert [part["finish_reason"] for part in parts[:-1]] == [None] * (len(parts) - 1)
            assert parts[-1]["finish_reason"] == whole["choices"][number]["finish_reason"]
        assert (last["choices"], last["usage"]) == ([], whole["usage"])
        assert len({event["id"] for event in (*events, last)}) == 1

    def test_draws_depend_on_the_seed(self, writers: Client) -> None:
        drawn = {"temperature": 1.5, "max_tokens": 12}
        first, again, other = (complete(writers, **drawn, seed=seed)["choices"] for seed in (1, 1, 2))
        assert first == again
        assert first != other
        two = complete(writers, **drawn, seed=1, n=2)["choices"]
        assert [choice["text"] for choice in two] == [first[0]["text"], other[0]["text"]]

    def test_a_stop_text_is_not_part_of_the_answer(self, writers: Client) -> None:
        text = complete(writers, max_tokens=30)["choices"][0]["text"]
        stop = text[7:10]
        cut = text[: text.index(stop)]
        for stops in (stop, ["never there", stop]):
            (choice,) = complete(writers, max_tokens=30, stop=stops)["choices"]
            assert (choice["text"], choice["finish_reason"]) == (cut, "stop")
        asked = {"model": "ia3", "prompt": PROMPT, **GREEDY, "max_tokens": 30, "stop": stop, "stream": True}
        events = writers.post("/v1/completions", asked).events
        assert "".join(event["choices"][0]["text"] for event in events) == cut

    def test_probabilities(self, writers: Client, writing: AdapterSession) -> None:
        (choice,) = complete(writers, logprobs=3)["choices"]
        found = choice["logprobs"]
        # A token by itself has no space before it in this tokenizer.
        assert "".join(found["tokens"]) == choice["text"].replace(" ", "")
        assert len(found["token_logprobs"]) == len(found["tokens"]) == len(found["top_logprobs"])
        for token, value, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
            assert value == max(top.values()) == top[token]  # greedy
            assert value < 0


class TestChat:
    def test_a_bundle_without_a_template(self, writers: Client) -> None:
        answer = writers.post("/v1/chat/completions", {"model": "ia3", "messages": [{"role": "user", "content": "x"}]})
        assert answer.status == 400
        assert answer.json["error"]["message"].startswith("bundle bundle: expected a chat template")


class TestModels:
    def test_the_list(self, writers: Client) -> None:
        assert [one["id"] for one in writers.get("/v1/models").json["data"]] == ["base", "ia3", "houlsby"]
        assert writers.get("/v1/models/ia3").json["id"] == "ia3"
        assert writers.get("/v1/models/other").status == 404

    def test_a_classifier_does_not_write(self, classifiers: Client) -> None:
        answer = classifiers.post("/v1/completions", {"model": "ia3_two", "prompt": "x"})
        assert answer.status == 400
        assert "/v2/models/ia3_two/infer" in answer.json["error"]["message"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "status", "message"),
        [
            ({"model": "other"}, 404, "model 'other': not found"),
            ({"prompt": ""}, 400, "tokenizer makes no token"),
            ({"prompt": []}, 400, "prompt: expected at least one token"),
            ({"prompt": [-1]}, 400, "prompt"),
            ({"prompt": [10**9]}, 400, "prompt: expected tokens from 0"),
            ({"prompt": ["x", 3]}, 400, "prompt"),
            ({"prompt": None}, 400, "prompt"),
            ({"prompt": "a " * 500}, 400, "do not fit"),
            ({"max_tokens": 0}, 400, "max_tokens"),
            ({"max_tokens": 10**12}, 400, "do not fit"),
            ({"temperature": -1}, 400, "temperature"),
            ({"temperature": "hot"}, 400, "temperature"),
            ({"top_p": 0}, 400, "top_p"),
            ({"n": 0}, 400, "n: "),
            ({"n": 100}, 400, "at most 16 rows"),
            ({"logprobs": 21}, 400, "logprobs"),
            ({"stop": [""]}, 400, "stop"),
            ({"presence_penalty": 0.5}, 400, "'presence_penalty' is not served"),
            ({"logit_bias": {"5": 1}}, 400, "'logit_bias' is not served"),
            ({"best_of": 3}, 400, "'best_of' is not served"),
            ({"echo": True}, 400, "'echo' is not served"),
            ({"surprise": 1}, 400, "'surprise' is not a field"),
            ({"stream_options": {"include_usage": True}}, 400, "'stream_options' needs stream"),
        ],
    )
    def test_what_is_not_served(self, writers: Client, change: dict[str, Any], status: int, message: str) -> None:
        answer = writers.post("/v1/completions", {"model": "ia3", "prompt": PROMPT, **GREEDY, **change})
        assert answer.status == status, answer.body
        assert message in answer.json["error"]["message"]
        assert set(answer.json["error"]) == {"message", "type", "param", "code"}

    def test_defaults_that_change_nothing_are_accepted(self, writers: Client) -> None:
        same = {
            "presence_penalty": 0,
            "frequency_penalty": 0.0,
            "best_of": 1,
            "echo": False,
            "logit_bias": {},
            "user": "me",
        }
        assert complete(writers, **same)["choices"] == complete(writers)["choices"]


class TestClientsThatGoAway:
    def test_their_rows_end(self, writers: Client) -> None:
        assert writers.application is not None
        generator = writers.application.service.engine.generator
        assert generator is not None
        asked = {"model": "ia3", "prompt": PROMPT, "max_tokens": 80, "temperature": 1.0, "seed": 3, "n": 8}
        all_tokens = writers.post("/v1/completions", asked).json["usage"]["completion_tokens"]
        for stream in (True, False):
            before = generator.statistics().tokens
            body = json.dumps({**asked, "stream": stream}).encode()
            with contextlib.closing(writers.connect()) as connection:
                connection.request("POST", "/v1/completions", body)
                while not generator.statistics().running:
                    time.sleep(0.001)
            end = time.monotonic() + 20
            while generator.statistics().running and time.monotonic() < end:
                time.sleep(0.01)
            assert generator.statistics().running == 0
            assert generator.statistics().tokens - before < all_tokens

    def test_a_full_queue_is_told(self, writers: Client) -> None:
        body = {"model": "ia3", "prompt": PROMPT, "max_tokens": 60, "temperature": 1.0, "n": 16}
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: writers.post("/v1/completions", body), range(6)))
        statuses = {answer.status for answer in answers}
        assert statuses == {200, 429}
        refused = next(answer for answer in answers if answer.status == 429)
        assert refused.headers["retry-after"] == "1"
        assert refused.json["error"]["type"] == "rate_limit_error"
