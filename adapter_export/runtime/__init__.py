"""Runs bundles. Needs numpy, onnxruntime and tokenizers, and neither torch nor transformers."""

import os

# ONNX Runtime reads this when it is imported. A fork of the process has no telemetry thread (1.31), but waits for it
# forever when it ends. `ORT_DISABLE_TELEMETRY=0` turns telemetry on again.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
