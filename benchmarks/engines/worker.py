"""One engine that decodes when it is told to, and tells what a token takes. Needs nothing of this project but for the
engine `session`, so that it runs in the environment of any of them.

    python worker.py ENGINE THREADS FOLDER [ADAPTER FILE]

Engines: genai (ONNX Runtime GenAI), session (this project's), llama (llama.cpp, one row only), torch. For each line
`ROWS PROMPT STEPS` on stdin, it decodes STEPS tokens after ROWS prompts of PROMPT tokens, and prints the median seconds
of a step, in which each row gets a token: by the clock, and of CPU time.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

# Begins a decoding: (prompts, number of tokens) -> an iterator that computes a token of each whenever it is asked.
Begin = Callable[[list[list[int]], int], Iterator[Any]]


def genai(threads: int, folder: str, adapter: tuple[str, str] | None) -> Begin:
    import numpy as np
    import onnxruntime_genai as og

    config = og.Config(folder)
    config.clear_providers()
    options = {"session_options": {"intra_op_num_threads": threads}}
    config.overlay(json.dumps({"model": {"decoder": options}}))
    model = og.Model(config)
    adapters = og.Adapters(model)
    if adapter is not None:
        adapters.load(adapter[1], adapter[0])

    def begin(prompts: list[list[int]], steps: int) -> Iterator[Any]:
        parameters = og.GeneratorParams(model)
        length, rows = len(prompts[0]) + steps, len(prompts)
        parameters.set_search_options(batch_size=rows, max_length=length, min_length=length, do_sample=False)
        generator = og.Generator(model, parameters)
        if adapter is not None:
            generator.set_active_adapter(adapters, adapter[0])
        generator.append_tokens(np.array(prompts, np.int32))
        for _ in range(steps):
            generator.generate_next_token()
            yield None

    return begin


def session(threads: int, folder: str, adapter: tuple[str, str] | None) -> Begin:
    import onnxruntime as ort

    from adapter_export import AdapterSession

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    opened = AdapterSession(folder, options=options)
    name = None if adapter is None else adapter[0]
    return lambda prompts, steps: opened.generate(prompts, name, max_new_tokens=steps, ignore_eos=True)


def llama(threads: int, file: str, adapter: tuple[str, str] | None) -> Begin:
    from llama_cpp import Llama

    model = Llama(file, n_threads=threads, n_threads_batch=threads, n_ctx=1024, verbose=False)

    def begin(prompts: list[list[int]], steps: int) -> Iterator[Any]:
        model.reset()
        (tokens,) = prompts
        for _ in range(steps):
            model.eval(tokens)
            tokens = [model.sample(temp=0.0)]
            yield None

    return begin


def torch(threads: int, folder: str, adapter: tuple[str, str] | None) -> Begin:
    import torch as module
    from transformers import AutoModelForCausalLM, DynamicCache

    module.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def begin(prompts: list[list[int]], steps: int) -> Iterator[Any]:
        cache, token = DynamicCache(config=model.config), module.tensor(prompts)
        for _ in range(steps):
            with module.inference_mode():
                found = model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
                token = found.logits[:, -1:].argmax(-1)
            yield token

    return begin


def main() -> None:
    engine, threads, folder, *adapter = sys.argv[1:]
    begin = {"genai": genai, "session": session, "llama": llama, "torch": torch}[engine](
        int(threads), folder, (adapter[0], adapter[1]) if adapter else None
    )
    print("ready", flush=True)
    for line in sys.stdin:
        rows, length, steps = map(int, line.split())
        drawn = random.Random(0)
        prompts = [[drawn.randrange(1000, 20000) for _ in range(length)] for _ in range(rows)]
        tokens = begin(prompts, steps)
        # The first token comes with the prompts.
        next(tokens)
        walls, cpus = [], []
        for _ in range(steps - 1):
            wall, cpu = time.perf_counter(), time.process_time()
            next(tokens)
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        print(statistics.median(walls), statistics.median(cpus), flush=True)


if __name__ == "__main__":
    main()
