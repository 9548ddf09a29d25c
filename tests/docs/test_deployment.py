"""The plan in docs/deployment.md follows from the measurements that it names."""

from __future__ import annotations

from tests.docs.blocks import ROOT

PLAN, MEASURED = ((ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("deployment", "benchmarks"))
# Adapters, requests a second, and cores of a pod.
ADAPTERS, REQUESTS, CORES = 10_000, 100_000, 2
# The assumptions, which are not measured.
OVERHEAD, USE, PRICE = 1.0, 0.6, 0.04
# Rows in a minute of two cores; megabytes of a session, and of adapters in it.
ROWS, SESSION = 17_017, 60.0
MEGABYTES = {"IA3": (119.2 - 57.3) / 1000, "LoRA, rank 8": 0.301, "bottleneck, k = 48": (421.0 - 57.9) / 200}
SHARDS = {"IA3": 1, "LoRA, rank 8": 4, "bottleneck, k = 48": 16}


def test_the_constants_are_measured() -> None:
    assert f"{ROWS:,} rows" in MEASURED
    assert "| injection, LoRA | 74,498 | 301 |" in MEASURED
    assert "| the session without them, MB | 60.0 | 57.3 | 57.9 |" in MEASURED
    assert "| with all of them, MB | 482.8 | 119.2 | 421.0 |" in MEASURED
    for value in (f"{ROWS:,} rows", "301 kB", "(119.2 - 57.3) MB", "(421.0 - 57.9) MB"):
        assert value in PLAN


def test_the_plan_is_computed_from_them() -> None:
    a_core = round(ROWS / 60 / CORES)
    graph = REQUESTS / a_core
    cores = round(graph * (1 + OVERHEAD) / USE)
    pods = -(-cores // CORES)
    text = " ".join(PLAN.split())
    assert f"= {a_core} rows a second" in text
    assert f"= {graph:.0f} cores run the graph; with HTTP {graph * (1 + OVERHEAD):,.0f}" in text
    assert f"at {USE:.0%} use {cores:,}. That is {pods:,} pods of two cores" in text
    hour = cores * PRICE
    assert f"for ${hour:.0f} an hour, or ${hour / (REQUESTS * 3600 / 1e6):.2f} for a million requests" in text
    for kind, each in MEGABYTES.items():
        whole, part = SESSION + ADAPTERS * each, SESSION + ADAPTERS / SHARDS[kind] * each
        row = [shown(whole / 1e3), str(SHARDS[kind]), shown(part / 1e3), f"{pods * part / 1e6:.2f} TB"]
        assert f"| {kind} | {row[0]} | {row[1]} | {row[2]} | {row[3]} |" in PLAN
    shards = SHARDS["bottleneck, k = 48"]
    assert (
        f"{shards} shards of {-(-pods // shards)} pods have {ADAPTERS // shards} adapters and {REQUESTS // shards:,} re"
        in text
    )


def shown(gigabytes: float) -> str:
    """With two digits after the point below 2 GB, else with one."""
    return f"{gigabytes:.{2 if gigabytes < 2 else 1}f} GB"
