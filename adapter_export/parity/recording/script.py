"""Joins the recorder's modules into one script, for an environment without this package."""

from __future__ import annotations

import re
from importlib import resources

# Each module needs only modules before it.
PARTS = ("files", "precision", "subject", "peft_subject", "hub_subject", "inputs", "few_bits", "recorder")
_OWN_IMPORT = re.compile(r"^from adapter_export\.[\w.]+ import (?:\([^)]*\)|.*)\n", re.MULTILINE)
_FUTURE = "from __future__ import annotations\n"
_HEADER = '''"""Records what a trained adapter computes, by the library that trained it; written by adapter-export.

Needs Python 3.10, numpy, torch, transformers and `peft` or `adapters`:

    python recorder.py --model MODEL --adapter ADAPTER --output reference.npz

Then, where adapter-export is: adapter-export parity --bundle BUNDLE --reference NAME=reference.npz
"""
'''


def script() -> str:
    """Returns the text of the script: all modules one after another, without the imports between them."""
    folder = resources.files("adapter_export.parity.recording")
    texts = [(folder / f"{part}.py").read_text(encoding="utf-8") for part in PARTS]
    return "\n\n".join([f"{_HEADER}\n{_FUTURE}", *(_OWN_IMPORT.sub("", text.replace(_FUTURE, "")) for text in texts)])
