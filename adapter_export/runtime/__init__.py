"""Bundles at run time; needs numpy, onnxruntime and tokenizers, and neither torch nor transformers."""

import os

# ONNX Runtime reads this when it is imported. Its thread for telemetry (1.31) is not there in a fork of the process,
# which waits for it when it ends, forever. `ORT_DISABLE_TELEMETRY=0` brings it back.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
