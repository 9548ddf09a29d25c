"""Forks, as of gunicorn with `preload_app` and of multiprocessing: what belongs to the parent is refused in the child
with what to do, ends with it in peace, and goes on in the parent."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapter_export import AdapterSession, BundleWatch, DynamicBatcher
from tests.bundles import Exported

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is a matter of Unix")
ROOT = Path(__file__).parents[2]

_PROGRAM = """
import json, os, signal, sys, warnings
warnings.simplefilter("ignore")  # of Python, where a process with threads forks
from adapter_export import AdapterSession, BundleWatch, DynamicBatcher, WrongProcess
from tests.tiny import text_batch

bundle = sys.argv[1]
batch = text_batch()
inputs = {**batch, "token_type_ids": batch["input_ids"] * 0}
row = {name: value[0] for name, value in inputs.items()}
found = {}

def refused(name, call):
    try:
        found[name] = f"not refused: {call()!r}"
    except WrongProcess as error:
        found[name] = str(error)

def threads():
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 3
    return options

def fork(child):
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        # A child that hangs, in its work or at its end, is ended by this.
        signal.alarm(20)
        child()
        os.write(writing, json.dumps(found).encode())
        os.close(writing)
        sys.exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        told = json.loads(file.read() or "null")
    return told, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(bundle: Path, code: str) -> Any:
    """What a program prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", f"{_PROGRAM}\n{code}", bundle],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_what_the_parent_made(swappable_bundle: Exported) -> None:
    """Everything that would wait for a thread that is not there says so; ending it does nothing, also at exit."""
    told, code, same, served = run(
        swappable_bundle.bundle,
        """
session = AdapterSession(bundle, options=threads())
before = session.run(inputs, "ia3_two")["logits"]
batcher = DynamicBatcher(session)
batcher.submit(row, "ia3_two").result()
waiting = DynamicBatcher(session, max_wait=1000.0)
future = waiting.submit(row)
watch = BundleWatch(session, seconds=0.01)

def child():
    refused("run", lambda: session.run(inputs, "ia3_two"))
    refused("run_rows", lambda: session.run_rows(inputs, [None] * 3))
    refused("bound", lambda: session.bound([None]))
    refused("load", lambda: session.load("ia3_three"))
    refused("unload", lambda: session.unload("ia3_two"))
    refused("reread", session.reread)
    refused("labels", lambda: session.labels("ia3_two"))
    refused("loaded", lambda: session.loaded)
    refused("statistics", session.statistics)
    refused("submit", lambda: batcher.submit(row, "ia3_two"))
    refused("asyncio", lambda: __import__("asyncio").run(batcher.run(row)))
    refused("future", future.result)
    refused("look", watch.look)
    watch.stop()
    waiting.close()
    batcher.close()
    session.close()

told, code = fork(child)
same = (session.run(inputs, "ia3_two")["logits"] == before).all()
served = batcher.submit(row, "ia3_two").result()["logits"].shape
watch.stop()
waiting.close()
print(json.dumps([told, code, bool(same), served]))
""",
    )
    assert code == 0
    assert len(told) == 13
    for message in told.values():
        assert "used in process" in message
        assert message.endswith("a fork of it; make it after the fork (with gunicorn in `post_fork`, or without "
                                "`preload_app`)")  # fmt: skip
    assert told["run"].startswith(f"AdapterSession of {swappable_bundle.bundle}: made in process ")
    assert same
    assert served == [2]


def test_what_the_child_makes(swappable_bundle: Exported) -> None:
    """A session of its own works, also where the parent has run one, and texts are read."""
    told, code = run(
        swappable_bundle.bundle,
        """
from adapter_export.runtime.text import TextEncoder
parent = AdapterSession(bundle, options=threads())
expected = parent.run(inputs, "ia3_two")["logits"]
text = TextEncoder(bundle, parent.manifest).encode(["good"]).inputs["input_ids"].tolist()

def child():
    with AdapterSession(bundle, options=threads()) as session, DynamicBatcher(session) as batcher:
        found["same"] = bool((session.run(inputs, "ia3_two")["logits"] == expected).all())
        found["served"] = list(batcher.submit(row, "houlsby_four").result()["logits"].shape)
        found["text"] = TextEncoder(bundle, session.manifest).encode(["good"]).inputs["input_ids"].tolist() == text

print(json.dumps(fork(child)))
""",
    )
    assert (told, code) == ({"same": True, "served": [4], "text": True}, 0)


def test_a_generation_under_way(llama_bundle: Exported) -> None:
    told, code, tokens = run(
        llama_bundle.bundle,
        """
session = AdapterSession(bundle)
generation = session.generate([[5, 6, 7]], "ia3", max_new_tokens=4, ignore_eos=True)
next(generation)

def child():
    refused("next", lambda: next(generation))
    generation.close()

told, code = fork(child)
print(json.dumps([told, code, len(generation.completions()[0].tokens)]))
""",
    )
    assert told["next"].startswith("Generation: made in process ")
    assert (code, tokens) == (0, 4)


def test_graphs_and_leases_of_the_parent(bank_bundle: Exported) -> None:
    """A bank's rows are given back when the interpreter ends; the lock for that may be held where it forked."""
    told, code, steps = run(
        bank_bundle.bundle,
        """
import threading
session = AdapterSession(bundle, options=threads())
(graph,) = session.bound(["ia3_two"] * 3).values()
graph.feed(inputs)
before = graph.run(["logits"])["logits"].numpy()
holding, done = threading.Event(), threading.Event()

def hold():
    with session._adapters._pool._changed:
        holding.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
holding.wait()

def child():
    refused("run", lambda: graph.run(["logits"]))
    refused("feed", lambda: graph.feed(inputs))

told, code = fork(child)
done.set()
thread.join()
print(json.dumps([told, code, bool((graph.run(["logits"])["logits"].numpy() == before).all())]))
""",
    )
    assert [message.partition(":")[0] for message in told.values()] == ["BoundGraph", "BoundGraph"]
    assert (code, steps) == (0, True)


def test_as_gunicorn_ends_its_workers(swappable_bundle: Exported) -> None:
    """A parent that has opened a session, and closed or forgotten it, has children that come to an end."""
    codes = run(
        swappable_bundle.bundle,
        """
codes = []
for end in (lambda s: s.close(), lambda s: None):
    session = AdapterSession(bundle, options=threads())
    end(session)
    codes.append(fork(lambda: None)[1])
    del session
    codes.append(fork(lambda: None)[1])
print(json.dumps(codes))
""",
    )
    assert codes == [0, 0, 0, 0]


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_multiprocessing(swappable_bundle: Exported, tmp_path: Path, way: str) -> None:
    """Each worker of a pool opens its own."""
    (tmp_path / "pool.py").write_text(
        f"""
import multiprocessing, sys, warnings
warnings.simplefilter("ignore")
from adapter_export import AdapterSession

def opened(bundle):
    global session
    session = AdapterSession(bundle)

def labels(name):
    return session.labels(name)

if __name__ == "__main__":
    own = AdapterSession(sys.argv[1])
    with multiprocessing.get_context({way!r}).Pool(2, opened, [sys.argv[1]]) as pool:
        print(pool.map(labels, ["ia3_two", "houlsby_four"]))
"""
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "pool.py", swappable_bundle.bundle],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[('no', 'yes'), ('north', 'east', 'south', 'west')]\n"


def test_pickling_says_what_to_do(swappable_bundle: Exported) -> None:
    with AdapterSession(swappable_bundle.bundle) as session, DynamicBatcher(session) as batcher:
        watch = BundleWatch(session)
        for made, name in ((session, "AdapterSession"), (batcher, "DynamicBatcher"), (watch, "BundleWatch")):
            with pytest.raises(TypeError, match=rf"^{name} of .*: cannot be pickled, .*; make another there$"):
                pickle.dumps(made)
        watch.stop()
