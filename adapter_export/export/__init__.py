"""Makes the graphs of a bundle from a PyTorch model.

`export.export_onnx` is the command `onnx`. It traces the model once, with marker nodes in place of adapters (`trace`),
lowers the trace to a mode (`lower`), and writes the bundle (`bundle`).
"""
