"""Decoding speed of whole engines on SmolLM2-135M, each in a process of its own. See `benchmarks.engines.__main__`."""
