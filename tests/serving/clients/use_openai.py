"""Uses a server by OpenAI's client: PORT MODEL PROMPT -> texts by each form of request, and the classes of errors."""

import asyncio
import json
import sys

import openai

port, model, prompt = sys.argv[1:]
options = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "none", "max_retries": 0}
client = openai.OpenAI(**options)
asked = {"model": model, "prompt": prompt, "max_tokens": 9, "temperature": 0}
whole = client.completions.create(**asked, logprobs=1)
found = {
    "whole": whole.choices[0].text,
    "usage": whole.usage.total_tokens,
    "models": [m.id for m in client.models.list()],
}
found["logprob"] = whole.choices[0].logprobs.token_logprobs[0]
found["stream"] = "".join(part.choices[0].text for part in client.completions.create(**asked, stream=True))


async def many() -> list[str]:
    async with openai.AsyncOpenAI(**options) as several:
        answers = await asyncio.gather(*(several.completions.create(**asked) for _ in range(8)))
        return [answer.choices[0].text for answer in answers]


found["many"] = asyncio.run(many())
messages = [{"role": "user", "content": prompt}]
chat = {"model": model, "messages": messages, "max_tokens": 9, "temperature": 0}
found["chat"] = client.chat.completions.create(**chat).choices[0].message.content
parts = list(client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True}))
found["chat stream"] = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
found["chat usage"] = parts[-1].usage.completion_tokens
found["errors"] = {}
for name, change in {
    "model": {"model": "nobody"},
    "field": {"presence_penalty": 1.0},
    "value": {"max_tokens": 10**9},
}.items():
    try:
        client.completions.create(**{**asked, **change})
    except openai.APIStatusError as error:
        found["errors"][name] = [type(error).__name__, error.status_code]
json.dump(found, sys.stdout)
