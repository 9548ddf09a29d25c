"""Graph passes over `onnx_ir` models: one transformation a file."""
