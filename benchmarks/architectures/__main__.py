"""`python -m benchmarks.architectures [MODEL_TYPE ...] [--page-only]`: measure, and write the page.

Measures what has no numbers of the installed versions yet, or the architectures named. About half a minute a task and
architecture; what is done is kept when it is stopped.
"""

from __future__ import annotations

import argparse
import json

from benchmarks.architectures.page import NUMBERS, PAGE, render


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=__doc__)
    parser.add_argument("model_type", nargs="*", help="measure these again (default: those without current numbers)")
    parser.add_argument("--page-only", action="store_true", help="only write the page, from the numbers there are")
    arguments = parser.parse_args()
    numbers = json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.exists() else {}
    if not arguments.page_only:
        # Here, so that the page alone needs no torch.
        from benchmarks.architectures.measure import measure, missing

        for model_type in arguments.model_type or missing(numbers):
            numbers[model_type] = measure(model_type)
            text = json.dumps(dict(sorted(numbers.items())), indent=1, sort_keys=True)
            NUMBERS.write_text(text + "\n", encoding="utf-8")
            print(model_type, json.dumps(numbers[model_type]["tasks"]), flush=True)
    PAGE.write_text(render(numbers), encoding="utf-8")


main()
