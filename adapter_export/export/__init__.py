"""From a model in PyTorch to the graphs of a bundle.

`export.export_onnx` is the command `onnx`: one trace in which adapters are marker nodes (`trace`), which is then
lowered to a mode (`lower`), and written (`bundle`).
"""
