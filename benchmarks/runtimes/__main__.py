"""`python -m benchmarks.runtimes [TITLE ...] [--page-only]`: measure, and write the page.

Takes a quarter of an hour and 4 GB of disk.

What a runtime needs is fetched on first use; a runtime that cannot be had is a row with the reason.
"""

from __future__ import annotations

import argparse
import json

from benchmarks.runtimes.page import NUMBERS, PAGE, render


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__)
    parser.add_argument("title", nargs="*", help="measure these runtimes again (default: all)")
    parser.add_argument("--page-only", action="store_true", help="only write the page, from the numbers there are")
    arguments = parser.parse_args()
    if not arguments.page_only:
        # Here, so that the page alone needs no torch.
        from benchmarks.runtimes.measure import measure
        from benchmarks.runtimes.runtimes import RUNTIMES

        found = measure(arguments.title or RUNTIMES)
        if arguments.title:
            # The numbers of the others stay as they are.
            before = json.loads(NUMBERS.read_text(encoding="utf-8"))["runtimes"]
            found["runtimes"] = {title: {**before, **found["runtimes"]}[title] for title in RUNTIMES}
        NUMBERS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(json.loads(NUMBERS.read_text(encoding="utf-8"))), encoding="utf-8")


main()
