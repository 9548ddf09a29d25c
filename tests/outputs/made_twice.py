"""Run in a process of its own by `test_same_bytes.py`: made_twice.py ACTION OUTPUT MODEL ADAPTER ADAPTER ADAPTER.

merge: the first adapter, which is IA3. add: the third to a copy of the bundle that lies at OUTPUT. Any other ACTION is
the mode of an export with a task, as MODE:TASK, of as many adapters as it takes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import adapter_export


def main(action: str, output: Path, model: Path, *adapters: Path) -> None:
    if action == "merge":
        adapter_export.merge(model, adapters[0], output)
        return
    if action == "add":
        adapter_export.add_adapter(output, {"third": adapters[2]})
        return
    mode, _, task = action.partition(":")
    given = {"first": adapters[0], "second": adapters[1]} if mode in ("swappable", "bank") else {"first": adapters[0]}
    adapter_export.export_onnx(model, given, output, mode=mode, task=task)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
