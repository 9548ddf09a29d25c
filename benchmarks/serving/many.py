"""A thousand adapters in one session: what memory they take, and how long one more takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from adapter_export.benchmarking.memory import anonymous_bytes
from adapter_export.benchmarking.timing import seconds_of
from adapter_export.bundle.manifest import read_manifest
from adapter_export.cli.table import print_table
from adapter_export.runtime.provider import still_options
from adapter_export.runtime.session import AdapterSession
from benchmarks.serving.made import BOTTLENECK, IA3, ROWS, THREADS, make, texts

COUNTS = {IA3: 1000, BOTTLENECK: 200}
SWAPS, SESSIONS = 500, 5
# What a session may take above its own and its adapters' bytes, and a swap of the time to create one.
_MEMORY, _SWAP = 1.05, 50
# Bytes of a parameter.
_FLOAT = 4


def main(folder: Path) -> None:
    mixtures = {"all": COUNTS} | {method: {method: count} for method, count in COUNTS.items()}
    for title, counts in mixtures.items():
        made = make(folder / title, counts, ("bank",))
        print_table(
            "In one session: " + " and ".join(f"{count:,} {method} adapters" for method, count in counts.items()),
            ("", "value"),
            list(_in_a_process(made.bundles["bank"]).items()),
        )


def _in_a_process(bundle: Path) -> dict[str, str]:
    """The table, of a process of its own: this one has traced a model."""
    done = subprocess.run([sys.executable, "-m", __name__, str(bundle)], check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    together = found["loaded"] / (found["opened"] + found["tensors"])
    (cpu, wall), (create_cpu, create) = (np.array(found[what]).T for what in ("swaps", "sessions"))
    p99, p99_cpu = np.percentile(wall, 99), np.percentile(cpu, 99)
    return {
        "adapters' tensors, MB": f"{found['tensors'] / 1e6:,.1f}",
        "session without them, MB of anonymous memory": f"{found['opened'] / 1e6:,.1f}",
        "with all of them, MB": f"{found['loaded'] / 1e6:,.1f}",
        f"that to the sum of both (at most {_MEMORY})": f"{together:.3f}",
        "to load one : to create the session": f"1/{np.median(create) / np.median(wall):,.0f}",
        f"p99 of that (less than 1/{_SWAP})": f"1/{np.median(create) / p99:,.0f}",
        "p99 of that, CPU time": f"1/{np.median(create_cpu) / p99_cpu:,.0f}",
    }


def _measured(bundle: Path) -> dict[str, object]:
    """Bytes and seconds, in this process."""
    infos = read_manifest(bundle).adapters
    names = [info.name for info in infos]
    still_options()
    empty = anonymous_bytes()
    # Unverified, as the session that a swap is compared with should read nothing but the graph.
    sessions = [
        seconds_of(lambda: AdapterSession(bundle, options=still_options(THREADS), verify=False))
        for _ in range(SESSIONS)
    ]
    session = AdapterSession(bundle, options=still_options(THREADS), slots=len(names), verify=False)
    inputs, size = texts(ROWS, 16), {info.name: _FLOAT * info.parameters for info in infos}
    # What a batch needs of working memory, whoever is in it, is the session's: first and last are of either method.
    few = [*names[: ROWS // 2], *names[-ROWS // 2 :]]
    session.run(inputs, adapters=few)
    opened = anonymous_bytes()
    for name in names:
        session.load(name)
    for first in range(0, len(names) - ROWS, ROWS):
        session.run(inputs, adapters=names[first : first + ROWS])
    loaded = anonymous_bytes()
    if empty is None or opened is None or loaded is None:
        sys.exit("many: this system does not tell a process's anonymous memory")
    rng = np.random.default_rng(0)
    swaps = [seconds_of(lambda name=str(name): session.load(name)) for name in rng.choice(names, SWAPS)]
    return {
        "opened": opened - empty - sum(size[name] for name in few),
        "loaded": loaded - empty,
        "tensors": sum(size.values()),
        "swaps": swaps,
        "sessions": sessions,
    }


if __name__ == "__main__":
    print(json.dumps(_measured(Path(sys.argv[1]))))
