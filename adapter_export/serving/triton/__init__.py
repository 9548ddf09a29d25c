"""Model repositories of NVIDIA's Triton Inference Server, whose ONNX Runtime backend runs the graph of a bundle."""
