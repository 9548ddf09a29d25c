"""`python -m benchmarks.runtimes [--page-only]`: measure, and write the page. Takes ten minutes and 4 GB of disk.

What a runtime needs is fetched on first use; a runtime that cannot be had is a row with the reason.
"""

from __future__ import annotations

import argparse
import json

from benchmarks.runtimes.page import NUMBERS, PAGE, render


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__)
    parser.add_argument("--page-only", action="store_true", help="only write the page, from the numbers there are")
    if not parser.parse_args().page_only:
        # Here, so that the page alone needs no torch.
        from benchmarks.runtimes.measure import measure

        NUMBERS.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(json.loads(NUMBERS.read_text(encoding="utf-8"))), encoding="utf-8")


main()
